// The baseline, which is the Go package's algorithm: a connection of a pool for each lock, with try-lock and unlock on it.
import pg from "pg";
import { lockId } from "../../dist/index.js";

/** The maximum number of connections; further callers wait for their turn in the pool. */
const connections = 64;

export const byHand = {
  title: "by hand, a connection a lock",
  on: "PostgreSQL",
  async start({ url }) {
    // Connections are kept, so that none is opened during a measurement.
    const pool = new pg.Pool({ connectionString: url, max: connections, idleTimeoutMillis: 0 });
    pool.on("error", () => {});
    return {
      caller(key) {
        const id = lockId(0, key).toString();
        return async () => {
          const client = await pool.connect();
          try {
            const { rows } = await client.query("select pg_try_advisory_lock($1) as granted", [id]);
            if (!rows[0].granted) throw new Error(`${key} is held`);
            await client.query("select pg_advisory_unlock($1)", [id]);
          } finally {
            client.release();
          }
        };
      },
      connections: () => pool.totalCount,
      end: () => pool.end(),
    };
  },
};
