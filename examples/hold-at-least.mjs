// A job at fixed times without a table: one replica begins each tick, although their clocks differ and the job takes no time.
//
// The lock is held for longer than two clocks can differ, so that a late replica finds it held, not free again. That works only while the
// replica that did the job lives: `singleton-cron.mjs` is for a job that must never run twice.
import { setTimeout as delay } from "node:timers/promises";
import { PostgresLocker } from "pg-locker";

const { DATABASE_URL, JOB = "digest", HOLD_AT_LEAST = "30s" } = process.env;
const INTERVAL = Number(process.env.INTERVAL ?? 60_000); // Milliseconds, and longer than HOLD_AT_LEAST.

const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => stop.abort(new Error(signal)));

const locker = new PostgresLocker({ connectionString: DATABASE_URL, ttlEnforcement: "server" });
const latest = () => Math.floor(Date.now() / INTERVAL) * INTERVAL;
for (let tick = latest(); ; tick = Math.max(tick + INTERVAL, latest())) {
  await delay(Math.max(tick - Date.now(), 0), undefined, { signal: stop.signal }).catch(() => {});
  if (stop.signal.aborted) break;
  try {
    // Returns as soon as the job is done, but the lock stays held.
    const { acquired } = await locker.tryWithLock(JOB, () => job(tick), { holdAtLeast: HOLD_AT_LEAST });
    say(acquired ? "done" : "done elsewhere", { tick: new Date(tick) });
  } catch (error) {
    say("failed", { tick: new Date(tick), why: error.message });
  }
}
// Frees the lock. With `{ drain: HOLD_AT_LEAST }`, it would be held until its time has passed.
await locker.close();

/** Your job. */
async function job(tick) {
  say("running", { tick: new Date(tick) });
}

function say(what, facts) {
  console.log(JSON.stringify({ at: new Date().toISOString(), pid: process.pid, what, ...facts }));
}
