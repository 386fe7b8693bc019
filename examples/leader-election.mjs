// Leader election. Run as many of these as you like: one leads, the others wait for it to go.
import { setTimeout as delay } from "node:timers/promises";
import { PostgresLocker } from "pg-locker";

const { DATABASE_URL, KEY = "leader", TTL = "10s", EVERY = "1000" } = process.env;

// `once`: a second SIGTERM ends the process at once, should the work ignore the first.
const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => stop.abort(new Error(signal)));

// The server ends the lock of a leader that it hasn't heard from for a TTL: one that is stopped, or cut off, is replaced.
const locker = new PostgresLocker({ connectionString: DATABASE_URL, ttlEnforcement: "server" });
// Stands, leads, resigns and stands again, through restarts and failovers of the database. Rejects if no waiting mends what is wrong.
await locker.elect(KEY, { onElected: lead, onNewLeader: follow, ttl: TTL, signal: stop.signal });
await locker.close();

/** Works until the lock is lost, the process shall stop, or the work fails. Returning resigns, and throwing ends the election. */
async function lead(lock, { signal }) {
  say("leading");
  try {
    for (;;) {
      lock.assertHeld(); // Right before the work: the clock knows of an expiry before any timer has run.
      await work(signal);
      await delay(Number(EVERY), undefined, { signal });
    }
  } catch (error) {
    // Said before the lock is released: whoever is next says "leading" after that.
    say("stopped leading", signal.aborted ? signal.reason : error);
  }
}

/** Yours. Pass `signal` to whatever takes long: work that ignores it goes on after another replica has begun to lead. */
async function work(signal) {
  signal.throwIfAborted();
  say("working");
}

/** For the log, or for whoever asks this replica where the leader is. */
function follow(leader) {
  if (!leader.isSelf) say("following", new Error(`${leader.host}, session ${leader.pid}`));
}

function say(what, why) {
  const { pid } = process;
  console.log(JSON.stringify({ at: new Date().toISOString(), pid, what, why: why?.message }));
}
