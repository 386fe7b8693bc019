// A semaphore. Run as many of these as you like: all of them together make at most PERMITS calls at a time.
import { setTimeout as delay } from "node:timers/promises";
import { PostgresLocker } from "pg-locker";

const { DATABASE_URL, KEY = "api", PERMITS = "2" } = process.env;
const WORK = Number(process.env.WORK ?? 1_000); // Milliseconds.

const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => stop.abort(new Error(signal)));

// The server ends the permit of a process that has been silent for a TTL, so that a process that is stopped or cut off keeps none.
const locker = new PostgresLocker({ connectionString: DATABASE_URL, ttlEnforcement: "server" });
const slots = locker.semaphore(KEY, Number(PERMITS));
while (!stop.signal.aborted) {
  try {
    await slots.withPermit(call, { wait: true, ttl: "10s", signal: stop.signal });
  } catch (error) {
    if (stop.signal.aborted) break;
    // The permit was lost, the call failed, or waiting can't help, for example because another process uses a different number of PERMITS.
    say("failed", error);
    await delay(1_000, undefined, { signal: stop.signal }).catch(() => {});
  }
}
await locker.close();

/** Your call, of which at most PERMITS run at the same time. SIGTERM lets it finish; the loss of the permit stops it. */
async function call(permit) {
  say("begins");
  try {
    await delay(WORK, undefined, { signal: permit.signal });
  } finally {
    say("ends"); // Said before the permit is released, so that the next holder says "begins" after it.
  }
}

function say(what, why) {
  const { pid } = process;
  console.log(JSON.stringify({ at: new Date().toISOString(), pid, what, why: why?.message }));
}
