// Ways to wait for a lock until it is free. Each acquires with a function that answers the one that releases.
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { lockId, PostgresLocker } from "../dist/index.js";

/** Milliseconds between two tries of whoever polls. */
const pollInterval = 100;

/**
 * `sessions`: how many of those who wait by hand have a connection at a time. `idleTimeoutMillis`: after how long a connection that
 * nobody uses is ended; default: never, so that none is made anew in what is measured.
 */
export const waysToWait = {
  library(url, sessions, { idleTimeoutMillis = 0 } = {}) {
    const pool = poolOf("library", url, sessions, idleTimeoutMillis);
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
    return byHand(poolOf("blocked", url, sessions), (client, id) =>
      client.query("select pg_advisory_lock($1)", [id]),
    );
  },

  polling(url, sessions) {
    return byHand(poolOf("polling", url, sessions), async (client, id) => {
      for (;;) {
        const { rows } = await client.query("select pg_try_advisory_lock($1) as granted", [id]);
        if (rows[0].granted) return;
        await delay(pollInterval);
      }
    });
  },
};

const ignore = () => {};

function byHand(pool, lock) {
  const inUse = new Set();
  return {
    async acquire(key) {
      const id = lockId(0, key).toString();
      const client = await pool.connect();
      inUse.add(client);
      client.on("error", ignore); // Of a session that is ended on purpose.
      await lock(client, id);
      return async () => {
        let failed = true;
        try {
          await client.query("select pg_advisory_unlock($1)", [id]);
          failed = false;
        } finally {
          inUse.delete(client);
          client.off("error", ignore);
          client.release(failed);
        }
      };
    },
    async end() {
      // None, unless the measurement failed: the pool would wait for it.
      for (const client of inUse) client.release(true);
      await pool.end();
    },
  };
}

/** How often this process has heard the server out: a message of several statements is one round trip. */
export const counted = { roundTrips: 0 };

class CountingClient extends pg.Client {
  constructor(config) {
    super(config);
    this.connection.on("readyForQuery", () => {
      counted.roundTrips += 1;
    });
  }
}

function poolOf(way, connectionString, max, idleTimeoutMillis = 0) {
  const application_name = `bench ${way}`;
  // What the library connects beside the pool is of the pool's class as well.
  const pool = new pg.Pool({
    connectionString,
    max,
    idleTimeoutMillis,
    application_name,
    Client: CountingClient,
  });
  pool.on("error", () => {});
  return pool;
}

/** How many connections a way has; those of the library have a name of its own while it uses them. */
export async function connectionsOf(client, way) {
  const { rows } = await client.query(
    `select count(*)::int as count from pg_stat_activity
      where application_name = $1 or ($2 and application_name like 'pg-locker %')`,
    [`bench ${way}`, way === "library"],
  );
  return rows[0].count;
}

/** How those who wait show in the server: a session for each locker that waits, or one for each of those who block. */
const seen = {
  library: "select count(*)::int as waiting from pg_locks where locktype = 'advisory' and not granted",
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
