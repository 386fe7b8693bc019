import type { Pool } from "./driver.ts";
import { LazyPool } from "./lazy-pool.ts";
import type { PostgresJs } from "./postgres-js.ts";
import { PostgresJsPool } from "./postgres-js-pool.ts";
import { watchConnections } from "./reservation.ts";
import { boundedWait } from "./session.ts";

/** The maximum of connections, the same as the default of node-postgres. */
const most = 10;

/** Makes the locker's own pool, if its options say how to connect instead of giving a pool. */
export function ownPool(
  { connectionString, sql }: { readonly connectionString?: string; readonly sql?: PostgresJs },
  connWaitTimeout: number,
): Pool | undefined {
  const pool = sql === undefined ? lazyPool(connectionString, connWaitTimeout) : new PostgresJsPool(sql);
  if (pool !== undefined) watchConnections(pool);
  return pool;
}

function lazyPool(connectionString: string | undefined, connWaitTimeout: number): LazyPool | undefined {
  if (connectionString === undefined) return undefined;
  return new LazyPool({
    connectionString,
    max: most,
    keepAlive: true,
    // A locker that holds nothing doesn't keep the process alive; one that holds or waits does.
    allowExitOnIdle: true,
    // Without a time-out, a connection that nobody answers would keep the process alive after close().
    connectionTimeoutMillis: boundedWait(connWaitTimeout),
  });
}
