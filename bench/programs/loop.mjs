// A process that acquires a lock, works, releases it and acquires it again, without a pause, until a given instant.
import { setTimeout as delay } from "node:timers/promises";
import { now } from "../statistics.mjs";
import { opener, serve } from "./serve.mjs";

const open = opener(1);

serve({
  /** Returns how often it had the lock. */
  async loop({ way, key, workMs, until }) {
    let times = 0;
    while (now() < until) {
      const release = await open(way).acquire(key);
      times += 1;
      await delay(workMs);
      await release();
    }
    return times;
  },
});
