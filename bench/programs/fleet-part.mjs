// A process with many lockers, or many blocked sessions, each of which waits for one key and releases it at once.
import { now } from "../statistics.mjs";
import { counted, waysToWait } from "../ways-to-wait.mjs";
import { serve } from "./serve.mjs";

/** The open waiters of each way, each with connections of its own. */
const opened = { library: [], blocked: [] };
let through;
let acquired;
let release;

process.once("disconnect", async () => {
  await Promise.all(Object.values(opened).flatMap((all) => all.map((one) => one.end())));
});

function some(way, count) {
  // A waiting locker needs no connection of its pool, so idle ones are closed.
  const options = { idleTimeoutMillis: 1_000 };
  while (opened[way].length < count) opened[way].push(waysToWait[way](process.env.DATABASE_URL, 1, options));
  return opened[way].slice(0, count);
}

serve({
  async startToWait({ way, key, lockers }) {
    const waiter = async (one) => {
      const giveBack = await one.acquire(key);
      await giveBack();
      return now();
    };
    through = Promise.all(some(way, lockers).map(waiter));
    through.catch(() => {});
  },

  /** Returns when each locker had released the lock. */
  async through() {
    return through;
  },

  async roundTrips() {
    return counted.roundTrips;
  },

  /** Starts an acquire of a single locker. */
  async startToAcquire({ way, key }) {
    acquired = some(way, 1)[0]
      .acquire(key)
      .then((giveBack) => {
        const at = now();
        release = giveBack;
        return at;
      });
    acquired.catch(() => {});
  },

  /** Returns when the acquire returned. */
  async acquired() {
    return acquired;
  },

  async release() {
    await release();
  },

  /** Releases a lock that is already lost. */
  async forget() {
    await release().catch(() => {});
  },
});
