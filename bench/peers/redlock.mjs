// https://github.com/mike-marcacci/node-redlock/tree/v4.2.0#readme: one client for each Redis, here a single one. `lock()` and `unlock()`
// each run a script on the client's one connection.
import Redlock from "redlock";
import { redisClient } from "../redis.mjs";

export const redlock = {
  title: "redlock",
  package: "redlock",
  on: "Redis",
  async start({ redisUrl }) {
    const client = await redisClient(redisUrl);
    const locker = new Redlock([client]);
    locker.on("clientError", (error) => console.error(`redlock: ${error.message}`));
    return {
      caller: (key) => async () => {
        const lock = await locker.lock(key, 30_000);
        await lock.unlock();
      },
      connections: () => 1,
      end: () => client.quit(),
    };
  },
};
