// https://github.com/olalonde/advisory-lock#readme: `tryLock()` returns the function that unlocks. Each lock opens a connection of its own.
// The release closes it without waiting for that. No option takes a pool.
import createAdvisoryLock from "advisory-lock";

// It is compiled CommonJS: its default export is a property.
const advisory = createAdvisoryLock.default;

export const advisoryLock = {
  title: "advisory-lock",
  package: "advisory-lock",
  on: "PostgreSQL",
  async start({ url, callers, spareConnections }) {
    const createMutex = advisory(url);
    // Twice as many, because connections that are closing still count.
    const atOnce = Math.min(callers, Math.floor(spareConnections / 2));
    return {
      caller(key) {
        const mutex = createMutex(key);
        return async () => {
          const unlock = await mutex.tryLock();
          if (!unlock) throw new Error(`${key} is held`);
          await unlock();
        };
      },
      callers: atOnce,
      note: atOnce < callers ? `${atOnce} callers: max_connections` : undefined,
      connections: () => atOnce,
      end: async () => {},
    };
  },
};
