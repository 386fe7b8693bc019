// Holds three locks on one session, says the { id } of the first, and throws in every listener of their signals. It counts what Node.js
// then reports as uncaught. When all three were told, it takes the first lock again, says how all of that went, and exits.
import pg from "pg";
import { PostgresLocker } from "../../../dist/index.js";

let uncaught = 0;
process.on("uncaughtException", () => {
  uncaught += 1;
});
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
const locker = new PostgresLocker({ pool });
const keys = [0, 1, 2].map((at) => `listener:${at}:${process.pid}`);
const locks = await Promise.all(keys.map((key) => locker.acquire(key)));
const heard = [];
for (const [at, { signal }] of locks.entries()) {
  signal.addEventListener("abort", () => {
    heard.push(at);
    throw new Error(`thrown by listener ${at}`);
  });
}
console.log(JSON.stringify({ id: String(locks[0].id) }));
while (heard.length < 3 || uncaught < 3) await new Promise((resolve) => setTimeout(resolve, 10));
const again = await locker.acquire(keys[0], { wait: "5s" });
const aborted = locks.map(({ signal }) => signal.aborted);
console.log(JSON.stringify({ aborted, heard, uncaught, again: again.held }));
await locker.close();
await pool.end();
