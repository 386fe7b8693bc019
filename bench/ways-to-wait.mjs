// Ways to wait for a lock until it is free. Each acquires with a function that answers the one that releases.
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { lockId, PostgresLocker } from "../dist/index.js";

/** Milliseconds between two tries of whoever polls. */
const pollInterval = 100;

/** `sessions`: how many of those who wait by hand have a connection at a time. */
export const waysToWait = {
  library(url, sessions) {
    const pool = poolOf(url, sessions);
    const locker = new PostgresLocker({ pool });
    return {
      async acquire(key) {
        const lock = await locker.acquire(key, { wait: true });
        return () => lock.release();
      },
      async end() {
        await locker.close();
        await pool.end();
      },
    };
  },

  /** The server is asked to wait. */
  blocked(url, sessions) {
    return byHand(poolOf(url, sessions), (client, id) => client.query("select pg_advisory_lock($1)", [id]));
  },

  polling(url, sessions) {
    return byHand(poolOf(url, sessions), async (client, id) => {
      for (;;) {
        const { rows } = await client.query("select pg_try_advisory_lock($1) as granted", [id]);
        if (rows[0].granted) return;
        await delay(pollInterval);
      }
    });
  },
};

function byHand(pool, lock) {
  const inUse = new Set();
  return {
    async acquire(key) {
      const id = lockId(0, key).toString();
      const client = await pool.connect();
      inUse.add(client);
      await lock(client, id);
      return async () => {
        await client.query("select pg_advisory_unlock($1)", [id]);
        inUse.delete(client);
        client.release();
      };
    },
    async end() {
      // None, unless the measurement failed: the pool would wait for it.
      for (const client of inUse) client.release(true);
      await pool.end();
    },
  };
}

function poolOf(connectionString, max) {
  // Connections stay: none is to be made anew in what is measured.
  const pool = new pg.Pool({ connectionString, max, idleTimeoutMillis: 0 });
  pool.on("error", () => {});
  return pool;
}

/** How those who wait show in the server: a session of the library for each process, or one for each of those who block. */
const seen = {
  library: `select count(*)::int as waiting
              from pg_locks join pg_stat_activity using (pid)
             where locktype = 'advisory' and mode = 'ShareLock' and granted
               and application_name like 'pg-locker % (listens %'`,
  blocked: "select count(*)::int as waiting from pg_locks where locktype = 'advisory' and not granted",
};

/** Resolves when the server shows so many waiters; at once for those who poll, whom it can't show. */
export async function untilSeenWaiting(client, way, expected) {
  if (seen[way] === undefined) return;
  const patience = AbortSignal.timeout(20_000);
  for (;;) {
    const { rows } = await client.query(seen[way]);
    if (rows[0].waiting === expected) return;
    if (patience.aborted) throw new Error(`${rows[0].waiting} wait (${way}), not ${expected}`);
    await delay(2);
  }
}
