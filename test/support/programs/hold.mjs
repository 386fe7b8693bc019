// Takes the lock of the key in its argument, on a pool without an error listener of the application's, and says what becomes of it. With
// the argument `release`, it releases the lock at once, and its session is idle in the pool.
import pg from "pg";
import { PostgresLocker } from "../../../dist/index.js";

const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 2 });
let pid;
pool.on("acquire", (client) => {
  pid = client.processID;
});
pool.on("remove", () => console.log(JSON.stringify({ removed: true })));
const locker = new PostgresLocker({ pool, sessions: process.env.SESSIONS });
const lock = await locker.acquire(process.argv[2]);
if (process.argv[3] === "release") await lock.release();
else {
  lock.signal.addEventListener("abort", () => console.log(JSON.stringify({ lost: lock.signal.reason.code })));
}
console.log(JSON.stringify({ pid }));
process.stdin.on("data", async () => {
  const again = await locker.acquire(process.argv[2]);
  console.log(JSON.stringify({ again: again.held }));
});
