// A job at fixed times, in a service with several replicas: one of them does the job at each tick, once.
//
// The lock prevents two runs from overlapping, even those of two ticks. It can't prevent a tick from being done twice, because a replica
// whose clock is late finds the lock free after the first has finished. The row, written when a tick is done, prevents that.
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { PostgresLocker } from "pg-locker";

const { DATABASE_URL, JOB = "report" } = process.env;
const INTERVAL = Number(process.env.INTERVAL ?? 60_000); // Milliseconds, as WORK.
const WORK = Number(process.env.WORK ?? 1_000);

const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => stop.abort(new Error(signal)));

// A run uses two connections: one for the lock, and one for the job's statements.
const pool = new pg.Pool({ connectionString: DATABASE_URL });
pool.on("error", (error) => say("connection lost", { why: error.message }));
// The server ends the lock of a replica that has been silent for a TTL, so that another can take over its tick.
const locker = new PostgresLocker({ pool, ttlEnforcement: "server" });

// Under a lock, because two replicas that create a table at the same time can fail even with `if not exists`.
const table = `create table if not exists cron_runs
  (job text, tick timestamptz, result text not null, primary key (job, tick))`;
await locker.withLock("cron:table", () => pool.query(table), { wait: "30s" });

// Begins with the latest tick, which may not have been done: this may be a restart after a crash in mid-job.
const latest = () => Math.floor(Date.now() / INTERVAL) * INTERVAL;
for (let tick = latest(); ; tick = Math.max(tick + INTERVAL, latest())) {
  await delay(Math.max(tick - Date.now(), 0), undefined, { signal: stop.signal }).catch(() => {});
  if (stop.signal.aborted) break;
  await run(new Date(tick));
}
await locker.close();
await pool.end();

/** Does one tick, unless it is done. Waits for the replica that is doing it, to take over if that one dies, until the next tick is due. */
async function run(tick) {
  const options = { wait: INTERVAL, signal: stop.signal };
  const once = async (lock) => {
    const done = await pool.query("select from cron_runs where job = $1 and tick = $2", [JOB, tick]);
    if (done.rowCount > 0) return say("already done", { tick });
    say("running", { tick });
    const result = await job(tick, lock.signal);
    lock.assertHeld();
    // Write the job's result and the record that it is done in one statement (or one transaction): a replica that dies before this
    // leaves neither, and the next one starts over. So an e-mail could be sent twice. If it should rather not be sent at all than sent
    // twice, insert the row before the job. If the lock was lost unnoticed, the primary key refuses the second row.
    const insert = "insert into cron_runs (job, tick, result) values ($1, $2, $3) on conflict do nothing";
    const { rowCount } = await pool.query(insert, [JOB, tick, result]);
    say(rowCount === 1 ? "done" : "already done", { tick });
  };
  try {
    const { acquired } = await locker.tryWithLock(`cron:${JOB}`, once, options);
    if (!acquired) say("still running elsewhere", { tick });
  } catch (error) {
    // The lock was lost, the database failed, or the job threw. The other replicas wait for this tick and try it once each.
    if (!stop.signal.aborted) say("failed", { tick, why: error.message });
  }
}

/** Your job. SIGTERM lets it finish; the loss of the lock stops it if `signal` is passed to everything that takes long. */
async function job(tick, signal) {
  await delay(WORK, undefined, { signal });
  return `report of ${tick.toISOString()}`;
}

function say(what, facts) {
  console.log(JSON.stringify({ at: new Date().toISOString(), pid: process.pid, what, ...facts }));
}
