// Leader election. Run as many of these as you like: one leads, the others wait for it to resign.
import { setTimeout as delay } from "node:timers/promises";
import { PostgresLocker } from "pg-locker";

const { DATABASE_URL, KEY = "leader", TTL = "10s", EVERY = "1000" } = process.env;

// `once`: a second SIGTERM ends the process at once if the work ignores the first.
const stop = new AbortController();
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => stop.abort(new Error(signal)));

const locker = new PostgresLocker({ connectionString: DATABASE_URL });
// Stands, leads, resigns and stands again, through restarts and failovers of the database. Rejects on errors that waiting can't help.
// The server ends the lock of a leader that has been silent for a TTL, so a leader that is stopped or cut off is replaced.
await locker.elect(KEY, { onElected: lead, onNewLeader: follow, ttl: TTL, signal: stop.signal });
await locker.close();

/** Works until the lock is lost, the process is told to stop, or the work fails. Returning resigns; throwing ends the election. */
async function lead(lock, { signal }) {
  say("leading");
  try {
    for (;;) {
      lock.assertHeld(); // Right before the work, because a timer may notice an expiry late.
      await work(signal);
      await delay(Number(EVERY), undefined, { signal });
    }
  } catch (error) {
    // Said before the lock is released, so that the next leader says "leading" after it.
    say("stopped leading", signal.aborted ? signal.reason : error);
  }
}

/** Your work. Pass `signal` to everything that takes long: work that ignores it goes on after another replica has begun to lead. */
async function work(signal) {
  signal.throwIfAborted();
  say("working");
}

/** Logs the leader; a service could tell its clients where the leader is. */
function follow(leader) {
  if (!leader.isSelf) say("following", new Error(`${leader.host}, session ${leader.pid}`));
}

function say(what, why) {
  const { pid } = process;
  console.log(JSON.stringify({ at: new Date().toISOString(), pid, what, why: why?.message }));
}
