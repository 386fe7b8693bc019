// A process with many callers that wait for one key; each releases it at once.
import { now } from "../statistics.mjs";
import { opener, serve } from "./serve.mjs";

const open = opener(25);
let through;

serve({
  async startToWait({ way, key, callers }) {
    const caller = async () => {
      const release = await open(way).acquire(key);
      await release();
      return now();
    };
    through = Promise.all(Array.from({ length: callers }, caller));
    through.catch(() => {});
  },

  /** Returns when each caller had released the lock. */
  async through() {
    return through;
  },
});
