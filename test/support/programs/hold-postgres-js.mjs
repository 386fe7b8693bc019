// Takes the lock of the key in its argument over postgres.js, and says what becomes of it. Meanwhile a transaction under the other key runs
// a statement. Ends by itself when it is told to.
import postgres from "postgres";
import { PostgresLocker } from "../../../dist/index.js";

const say = (message) => console.log(JSON.stringify(message));
process.on("unhandledRejection", (error) => {
  console.error("unhandled rejection", error);
  process.exit(2);
});

const sql = postgres(process.env.DATABASE_URL, { onnotice: () => {} });
const locker = new PostgresLocker({ sql, sessions: process.env.SESSIONS });
const [, , key, other] = process.argv;
const lock = await locker.acquire(key);
lock.signal.addEventListener("abort", () => say({ lost: lock.signal.reason.code }));
locker
  .withTransaction(other, async (client) => {
    say({ held: true });
    await client.query("select pg_sleep(60)");
  })
  .catch((error) => say({ failed: error.sqlState ?? error.code }));
process.stdin.once("data", async () => {
  const again = await locker.acquire(key, { wait: "20s" });
  say({ again: again.held });
  await again.release();
  process.stdin.unref();
});
