// Takes the keys of its arguments together, in the given order, as many times as the first argument says. Says what it holds each time, and
// when it is done.
import pg from "pg";
import { PostgresLocker } from "../../../dist/index.js";

const [rounds, ...keys] = process.argv.slice(2);
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
const locker = new PostgresLocker({ pool, sessions: process.env.SESSIONS });
const check = await pool.connect();
for (let round = 0; round < Number(rounds); round += 1) {
  const group = await locker.acquireAll(keys, { wait: "30s" });
  // A holder that finds somebody else inside fails with a unique violation.
  await check.query("insert into inside select unnest($1::text[])", [keys]);
  await check.query("delete from inside where key = any ($1)", [keys]);
  await group.release();
}
console.log(JSON.stringify({ done: Number(rounds) }));
check.release();
await locker.close();
await pool.end();
