// One of two processes that hand a lock over to each other.
import { setTimeout as delay } from "node:timers/promises";
import { now } from "../statistics.mjs";
import { opener, serve } from "./serve.mjs";

const open = opener(1);
let acquired;
let release;

serve({
  async startToAcquire({ way, key }) {
    acquired = open(way)
      .acquire(key)
      .then((releaseIt) => {
        const at = now();
        release = releaseIt;
        return at;
      });
    acquired.catch(() => {});
  },

  /** Returns when the acquire returned. */
  async acquired() {
    return acquired;
  },

  /** Releases the lock after `after` milliseconds. Returns when release was called. */
  async release({ after }) {
    await delay(after);
    const at = now();
    await release();
    return at;
  },
});
