// Leader election. Run as many of these as you like: one leads, the others wait for it to go.
import { setTimeout as delay } from "node:timers/promises";
import { PostgresLocker } from "pg-locker";

const { DATABASE_URL, KEY = "leader", TTL = "10s", EVERY = "1000" } = process.env;

// `once`: a second SIGTERM ends the process at once, should the work ignore the first.
const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => stop.abort(new Error(signal)));

// The server ends the lock of a leader that it hasn't heard from for a TTL: one that is stopped, or cut off, is replaced.
const locker = new PostgresLocker({ connectionString: DATABASE_URL, ttlEnforcement: "server" });
while (!stop.signal.aborted) {
  let term; // What `lead` returns, once elected.
  try {
    // Waits as long as it takes, through restarts and failovers of the database.
    await locker.withLock(KEY, (lock) => (term = lead(lock)), { wait: true, ttl: TTL, signal: stop.signal });
  } catch (error) {
    // What no waiting mends, such as a wrong password or a bad TTL.
    if (!term && !stop.signal.aborted) throw error;
  }
  // withLock rejects at the moment of the loss, whatever `lead` still does: stand again only when that has stopped.
  await term?.catch(() => {});
}
await locker.close();

/** Works until the lock is lost, the process shall stop, or the work fails. Returning, or throwing, resigns. */
async function lead(lock) {
  const end = AbortSignal.any([lock.signal, stop.signal]);
  say("leading");
  try {
    for (;;) {
      lock.assertHeld(); // Right before the work: the clock knows of an expiry before any timer has run.
      await work(end);
      await delay(Number(EVERY), undefined, { signal: end });
    }
  } catch (error) {
    // Said before the lock is released: whoever is next says "leading" after that.
    say("stopped leading", end.aborted ? end.reason : error);
    if (!end.aborted) await delay(1_000, undefined, { signal: end }).catch(() => {}); // The work failed: not at once again.
  }
}

/** Yours. Pass `signal` to whatever takes long: work that ignores it goes on after another replica has begun to lead. */
async function work(signal) {
  signal.throwIfAborted();
  say("working");
}

function say(what, why) {
  const { pid } = process;
  console.log(JSON.stringify({ at: new Date().toISOString(), pid, what, why: why?.message }));
}
