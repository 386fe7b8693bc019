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

  /** When the acquire returned. */
  async acquired() {
    return acquired;
  },

  /** When release was called, `after` so many milliseconds. */
  async release({ after }) {
    await delay(after);
    const at = now();
    await release();
    return at;
  },
});
