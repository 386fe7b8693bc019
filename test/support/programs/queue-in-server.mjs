// Waits in the server for the lock id of its first argument, works for the milliseconds of its second one, releases the lock, and waits
// again at once, for as long as it runs, as two processes in a loop of the Go package's WithLock do. Says { pid } of its session, and how
// often it has had the lock.
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";

const [id, work] = process.argv.slice(2);
const say = (message) => console.log(JSON.stringify(message));
const client = new pg.Client({ connectionString: process.env.DATABASE_URL });
await client.connect();
say({ pid: client.processID });
for (let times = 1; ; times += 1) {
  await client.query("select pg_advisory_lock($1)", [id]);
  say({ times });
  if (Number(work) > 0) await delay(Number(work));
  await client.query("select pg_advisory_unlock($1)", [id]);
}
