// https://github.com/alexpota/redlock-universal#readme: a lock object for each key, on a client of one Redis. `acquire()` sends a `set …
// nx`, `release()` a script. In every version, its package.json asks for Node.js 22; the part used here also runs on 20.
import { createLock, IoredisAdapter } from "redlock-universal";
import { redisClient } from "../redis.mjs";

export const redlockUniversal = {
  title: "redlock-universal",
  package: "redlock-universal",
  on: "Redis",
  async start({ redisUrl }) {
    const client = await redisClient(redisUrl);
    const adapter = new IoredisAdapter(client);
    return {
      caller(key) {
        const lock = createLock({ adapter, key, ttl: 30_000 });
        return async () => {
          const handle = await lock.acquire();
          if (!(await lock.release(handle))) throw new Error(`${key} was not held`);
        };
      },
      connections: () => 1,
      end: () => client.quit(),
    };
  },
};
