// A semaphore. Run as many of these as you like: all of them together are at work on no more than PERMITS things at a time.
import { setTimeout as delay } from "node:timers/promises";
import { PostgresLocker } from "pg-locker";

const { DATABASE_URL, KEY = "api", PERMITS = "2" } = process.env;
const WORK = Number(process.env.WORK ?? 1_000); // Milliseconds.

const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => stop.abort(new Error(signal)));

// The server ends the permit of a process that it hasn't heard from for a TTL, so that no permit stays with one that is stopped or cut off.
const locker = new PostgresLocker({ connectionString: DATABASE_URL, ttlEnforcement: "server" });
const slots = locker.semaphore(KEY, Number(PERMITS));
while (!stop.signal.aborted) {
  try {
    await slots.withPermit(call, { wait: true, ttl: "10s", signal: stop.signal });
  } catch (error) {
    if (stop.signal.aborted) break;
    // The permit lost, the call failed, or no waiting mends it: another number of PERMITS in another process, say.
    say("failed", error);
    await delay(1_000, undefined, { signal: stop.signal }).catch(() => {});
  }
}
await locker.close();

/** Yours: what only so many may do at the same time. SIGTERM lets it finish; the loss of the permit stops it. */
async function call(permit) {
  say("begins");
  try {
    await delay(WORK, undefined, { signal: permit.signal });
  } finally {
    say("ends"); // Said before the permit is released: whoever is next says "begins" after that.
  }
}

function say(what, why) {
  const { pid } = process;
  console.log(JSON.stringify({ at: new Date().toISOString(), pid, what, why: why?.message }));
}
