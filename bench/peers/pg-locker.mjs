// This library, in both ways: many locks on a connection, and a connection for each lock.
import pg from "pg";
import { PostgresLocker } from "../../dist/index.js";

export const shared = pgLocker("pg-locker", 2, { sessions: "shared" });

/** Callers beyond the pool's connections wait for their turn, as they do by hand. */
export const dedicated = pgLocker("pg-locker, dedicated sessions", 64, {
  sessions: "dedicated",
  connWaitTimeout: -1,
});

function pgLocker(title, max, options) {
  return {
    title,
    on: "PostgreSQL",
    async start({ url }) {
      const pool = new pg.Pool({ connectionString: url, max, idleTimeoutMillis: 0 });
      pool.on("error", () => {});
      const locker = new PostgresLocker({ pool, ...options });
      return {
        caller: (key) => async () => {
          const lock = await locker.acquire(key);
          await lock.release();
        },
        connections: () => pool.totalCount,
        async end() {
          await locker.close();
          await pool.end();
        },
      };
    },
  };
}
