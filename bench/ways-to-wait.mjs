// Ways to wait for a lock until it is free. Each acquires with a function that returns the function that releases.
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { lockId, PostgresLocker } from "../dist/index.js";

/** Milliseconds between two tries of a caller that polls. */
const pollInterval = 100;

/**
 * `sessions`: how many callers that wait by hand have a connection at a time. `idleTimeoutMillis`: after how long an unused connection is
 * closed; by default never, so that none is opened during a measurement.
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

  /** Waits inside the server, without a bound. */
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
      client.on("error", ignore); // The measurement may end the session on purpose.
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
      // There are none, unless the measurement failed: the pool would wait for them.
      for (const client of inUse) client.release(true);
      await pool.end();
    },
  };
}

/** Counts this process's round trips to the server: a message with several statements is one round trip. */
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
  // The library's connections beside the pool are of the pool's class as well.
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

/** How many connections a way has; those that the library uses have its `application_name`. */
export async function connectionsOf(client, way) {
  const { rows } = await client.query(
    `select count(*)::int as count from pg_stat_activity
      where application_name = $1 or ($2 and application_name like 'pg-locker %')`,
    [`bench ${way}`, way === "library"],
  );
  return rows[0].count;
}

/** How many sessions wait in the server: one for each waiting locker, or one for each blocked caller. */
const sessionsWaiting =
  "select count(*)::int as waiting from pg_locks where locktype = 'advisory' and not granted";

/** Resolves when the server shows the expected number of waiters; at once for polling, which it can't show. */
export async function untilSeenWaiting(client, way, expected) {
  if (way === "polling") return;
  const patience = AbortSignal.timeout(20_000);
  for (;;) {
    const { rows } = await client.query(sessionsWaiting);
    if (rows[0].waiting === expected) return;
    if (patience.aborted) throw new Error(`${rows[0].waiting} wait (${way}), not ${expected}`);
    await delay(2);
  }
}
