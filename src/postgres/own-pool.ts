import type { Pool } from "./driver.ts";
import { LazyPool } from "./lazy-pool.ts";
import type { PostgresJs } from "./postgres-js.ts";
import { PostgresJsPool } from "./postgres-js-pool.ts";
import { watchConnections } from "./reservation.ts";
import { boundedWait } from "./session.ts";

/** As many as a pool of node-postgres has by itself. */
const most = 10;

/** The pool that a locker makes itself, if it is told how to connect instead of given one. */
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
    // A connection that is never answered would keep the process alive after close().
    connectionTimeoutMillis: boundedWait(connWaitTimeout),
  });
}
