// Takes permits of the semaphore of its first two arguments (key, number), with two callers, each as often as the third argument says. Each
// caller adds itself to the count in the table `inside`, says { inside: the count }, and subtracts itself again. With `keep` as the third
// argument, it takes one permit, says { has: its id }, and keeps it until a line of its standard input. TTL, in the environment, is that of
// its permits.
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { PostgresLocker } from "../../../dist/index.js";

const [key, permits, turns] = process.argv.slice(2);
const say = (message) => console.log(JSON.stringify(message));
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL, max: 4 });
const { SESSIONS: sessions, TTL: ttl } = process.env;
const locker = new PostgresLocker({ pool, sessions, ...(ttl && { defaults: { ttl } }) });
const semaphore = locker.semaphore(key, Number(permits));
if (turns === "keep") {
  const permit = await semaphore.acquire({ wait: true, autoRefresh: true });
  say({ has: permit.id.toString() });
  await new Promise((resolve) => process.stdin.once("data", resolve));
  await permit.release();
} else {
  const caller = async () => {
    for (let turn = 0; turn < Number(turns); turn += 1) {
      await semaphore.withPermit(
        async (permit) => {
          permit.assertHeld();
          const { rows } = await pool.query("update inside set n = n + 1 returning n");
          say({ inside: rows[0].n });
          await delay(5);
          await pool.query("update inside set n = n - 1");
        },
        { wait: true },
      );
    }
  };
  await Promise.all([caller(), caller()]);
}
await locker.close();
await pool.end();
process.stdin.destroy();
