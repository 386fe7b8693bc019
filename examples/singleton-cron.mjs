// A job at fixed times, in a service of several replicas: each tick is done once, by one of them.
//
// The lock keeps two runs from overlapping, also those of two ticks. It can't keep a tick from being done twice: a replica
// whose clock is late finds the lock free, for the first has finished. The row does, which is there once a tick is done.
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { PostgresLocker } from "pg-locker";

const { DATABASE_URL, JOB = "report" } = process.env;
const INTERVAL = Number(process.env.INTERVAL ?? 60_000); // Milliseconds, as WORK.
const WORK = Number(process.env.WORK ?? 1_000);

const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => stop.abort(new Error(signal)));

// A run takes two connections: one is the lock, the other is for the statements of the job.
const pool = new pg.Pool({ connectionString: DATABASE_URL });
pool.on("error", (error) => say("connection lost", { why: error.message }));
// The server ends the lock of a replica that it hasn't heard from for a TTL, so that another can take over its tick.
const locker = new PostgresLocker({ pool, ttlEnforcement: "server" });

// Under a lock: two that create a table at the same time can fail, with `if not exists`, too.
const table = `create table if not exists cron_runs
  (job text, tick timestamptz, result text not null, primary key (job, tick))`;
await locker.withLock("cron:table", () => pool.query(table), { wait: "30s" });

// Begins with the tick that came last, which nobody may have done: this may be the restart after a crash in mid-job.
const latest = () => Math.floor(Date.now() / INTERVAL) * INTERVAL;
for (let tick = latest(); ; tick = Math.max(tick + INTERVAL, latest())) {
  await delay(tick - Date.now(), undefined, { signal: stop.signal }).catch(() => {});
  if (stop.signal.aborted) break;
  await run(new Date(tick));
}
await locker.close();
await pool.end();

/** Does one tick, unless it is done. Waits for whoever is at it, to take over if that dies; until the next tick is due. */
async function run(tick) {
  const options = { wait: INTERVAL, signal: stop.signal };
  const once = async (lock) => {
    const done = await pool.query("select from cron_runs where job = $1 and tick = $2", [JOB, tick]);
    if (done.rowCount > 0) return say("already done", { tick });
    say("running", { tick });
    const result = await job(tick, lock.signal);
    lock.assertHeld();
    // What the job brings about and the note that it is done, in one statement (or one transaction): a replica that dies
    // before this leaves neither, and the next one begins anew. So an e-mail could go out twice. To have it rather not sent
    // than sent twice, insert the row before the job. Should the lock have been lost unseen, the primary key refuses the
    // second row.
    const insert = "insert into cron_runs (job, tick, result) values ($1, $2, $3) on conflict do nothing";
    const { rowCount } = await pool.query(insert, [JOB, tick, result]);
    say(rowCount === 1 ? "done" : "already done", { tick });
  };
  try {
    const { acquired } = await locker.tryWithLock(`cron:${JOB}`, once, options);
    if (!acquired) say("still running elsewhere", { tick });
  } catch (error) {
    // The lock lost, the database in trouble, or an error of the job. The others wait for this tick and try it once each.
    if (!stop.signal.aborted) say("failed", { tick, why: error.message });
  }
}

/** Yours. SIGTERM lets it finish; the loss of the lock stops it, if `signal` is passed on to whatever takes long. */
async function job(tick, signal) {
  await delay(WORK, undefined, { signal });
  return `report of ${tick.toISOString()}`;
}

function say(what, facts) {
  console.log(JSON.stringify({ at: new Date().toISOString(), pid: process.pid, what, ...facts }));
}
