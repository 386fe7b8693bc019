import type { MeterProvider, TracerProvider } from "@opentelemetry/api";
import type { PoolLike, TransactionClient } from "./contract/clients.ts";
import type { LockDefaults } from "./contract/lock-defaults.ts";
import type { LockIdFunction } from "./contract/lock-id.ts";
import type { Duration, Logger } from "./contract/locker.ts";
import type { PostgresJs } from "./postgres/postgres-js.ts";
import type { CircuitBreaker } from "./runtime/circuit-breaker.ts";

/** How a locker reaches its database: exactly one of the four. */
export interface LockerConnection {
  /**
   * A node-postgres `Pool`, which stays the caller's: `close()` doesn't end it. Locks take connections from it while they are held.
   *
   * @example
   * const locker = new PostgresLocker({ pool: new pg.Pool() });
   */
  readonly pool?: PoolLike;
  /**
   * Two pools, if reads go elsewhere: locks live on `write`, and `ping()` proves `read` as well. Both stay the caller's.
   *
   * @example
   * const locker = new PostgresLocker({ database: { write: primary, read: replica } });
   */
  readonly database?: { readonly write: PoolLike; readonly read?: PoolLike };
  /**
   * A connection string. The locker makes a pool of its own for it, and ends that on `close()`.
   *
   * @example
   * const locker = new PostgresLocker({ connectionString: process.env.DATABASE_URL });
   */
  readonly connectionString?: string;
  /**
   * The `sql` of postgres.js, which stays the caller's. The locker makes connections of its own as `sql` does, by the same options, and
   * ends them on `close()`: while locks are held or asked for, at most `sql.options.max`, and those of callers who wait. Nothing is run
   * on `sql` itself, so `sql.end()` ends no lock. What differs from a node-postgres `Pool` is in docs/drivers.md.
   */
  readonly sql?: PostgresJs;
}

export interface PostgresLockerOptions extends LockerConnection {
  /**
   * Keeps services apart that share a database: part of the lock id. An int32.
   *
   * @default 0
   * @example
   * const locker = new PostgresLocker({ pool, namespace: 7 });
   */
  readonly namespace?: number;
  /**
   * How long a call waits for a connection of the pool. 0 is the default; negative: no bound. When it has passed, the call rejects with
   * `LockNotAcquiredError`, whose `reason` is `"pool-saturated"` or `"connection-timeout"`.
   *
   * @default "5s"
   * @example
   * const locker = new PostgresLocker({ pool, connWaitTimeout: "500ms" });
   */
  readonly connWaitTimeout?: Duration;
  /**
   * What to do if a connection pooler stands before the server. `"refuse"`: reject with `PoolerDetectedError`. `"session"` says that it is
   * one that keeps a session for each client, such as PgBouncer in session mode.
   *
   * @default "refuse"
   * @example
   * const locker = new PostgresLocker({ pool, pooler: "session" });
   */
  readonly pooler?: "refuse" | "session";
  /**
   * `"shared"`: as few connections of the pool as possible carry all locks, and what is asked at the same time goes out together.
   * `"dedicated"`: each lock has a connection to itself, as with the Go package.
   *
   * @default "shared"
   * @example
   * const locker = new PostgresLocker({ pool, sessions: "dedicated" });
   */
  readonly sessions?: "dedicated" | "shared";
  /**
   * With `sessions: "shared"`: how many locks a connection carries before another one is opened. A whole number from 1 up. The server
   * walks all of a session's locks at the end of each of its statements.
   *
   * @default 1000
   * @example
   * const locker = new PostgresLocker({ pool, maxLocksPerSession: 100 });
   */
  readonly maxLocksPerSession?: number;
  /**
   * With `sessions: "shared"`: whether whoever may connect to the database is told the keys of the locks, if it asks, as `pg-locker ls`
   * does. One session of the locker that has been open for a second listens for that (`LISTEN`); PostgreSQL up to 18 wakes it at each
   * notification of anybody in the database, for some 12 µs.
   *
   * @default true
   * @example
   * const locker = new PostgresLocker({ pool, tellKeys: false });
   */
  readonly tellKeys?: boolean;
  /**
   * On how many connections, beside the pool, callers may wait inside the server; those count on which a lock that was waited for is still
   * held. Further callers try about twice a second until there is room. A whole number from 1 up.
   *
   * One is enough to wait for one lock; each more makes the hand-over of one more lock immediate, and may take one more of the
   * server's `max_connections` for each process.
   *
   * @default 4
   * @example
   * const locker = new PostgresLocker({ pool, maxWaitingSessions: 1 });
   */
  readonly maxWaitingSessions?: number;
  /**
   * Who ends a lock whose TTL has passed.
   *
   * `"client"`: its holder stops relying on it, but the lock stays, and keeps others out until `release()`, `refresh()` or
   * `close()`, or until the holder's process ends. A logger is warned of each such lock, once.
   *
   * `"server"`: the database ends the lock's session, and so frees the lock, whatever has become of the holder. A TTL is then from
   * 1 ms to 2147483647 ms.
   *
   * @default "client"
   * @example
   * const locker = new PostgresLocker({ pool, ttlEnforcement: "server" });
   */
  readonly ttlEnforcement?: "client" | "server";
  /**
   * How long after a restart, a crash or a failover of the server nobody is granted a lock. All locks are gone then, but a holder who is
   * cut off doesn't know, and relies on its own for the rest of its TTL: with a grace, the next holder comes after that. A TTL above
   * it is refused with `InvalidTtlError`, and the default TTL is no longer than it.
   *
   * Until it has passed, waits wait, and whoever doesn't wait gets `LockNotAcquiredError` with the reason `"recovering"`. It has to be the
   * same for all lockers of a key. It costs one statement for each session that is opened.
   *
   * From 1 ms to 2147483647 ms. What it doesn't cover is in docs/guarantees.md.
   *
   * @default off
   * @example
   * const locker = new PostgresLocker({ pool, recoveryGrace: "10s" });
   * await locker.withLock("nightly", work, { ttl: "10s", wait: true });
   */
  readonly recoveryGrace?: Duration;
  /**
   * What is taken for an option that a call leaves out: `{ ttl, wait, autoRefresh }`. See {@link LockDefaults}.
   *
   * @default none
   * @example
   * const locker = new PostgresLocker({ pool, defaults: { ttl: "1m", wait: "10s" } });
   */
  readonly defaults?: LockDefaults;
  /**
   * Makes the id of a lock: a bigint from -2^63 to 2^63-1, the same for the same arguments, in every process. {@link sha256LockId} is
   * one that nobody can aim at. Lockers that differ in it don't exclude each other, and the Go package has the default.
   *
   * @default `lockId`, which is that of the Go package
   * @example
   * const locker = new PostgresLocker({ pool, lockId: sha256LockId });
   */
  readonly lockId?: LockIdFunction;
  /**
   * What calls of the database go through: anything with cockatiel's `execute(fn)`, or `createCircuitBreaker()`. An open one makes
   * `acquire` and `refresh` reject with `CircuitOpenError`; a lock that is held stays held, and a release passes.
   *
   * @default none
   * @example
   * const locker = new PostgresLocker({ pool, circuitBreaker: createCircuitBreaker() });
   */
  readonly circuitBreaker?: CircuitBreaker;
  /**
   * Anything with `debug`, `info`, `warn` and `error`, each of which takes facts and a message: pino's loggers, or `console`.
   *
   * @default nothing is logged
   * @example
   * const locker = new PostgresLocker({ pool, logger: pino() });
   */
  readonly logger?: Logger;
  /**
   * Where the spans of `acquire`, `refresh`, `release`, `ping` and `close` go.
   *
   * @default the global one of `@opentelemetry/api`
   * @example
   * const locker = new PostgresLocker({ pool, tracerProvider });
   */
  readonly tracerProvider?: TracerProvider;
  /**
   * Where the counts and latencies go.
   *
   * @default the global one of `@opentelemetry/api`
   * @example
   * const locker = new PostgresLocker({ pool, meterProvider });
   */
  readonly meterProvider?: MeterProvider;
}

export interface MemoryLockerOptions
  extends Pick<
    PostgresLockerOptions,
    | "namespace"
    | "ttlEnforcement"
    | "defaults"
    | "lockId"
    | "circuitBreaker"
    | "logger"
    | "tracerProvider"
    | "meterProvider"
  > {
  /**
   * Makes the client of a transaction, which `withTransaction` hands to its function: a fake that notes what it is told, or one of a
   * database for tests, such as PGlite. The locker tells it `begin` before the function, and `commit` or `rollback` after it, and nothing
   * else. A client that is given to `withTransaction` is the caller's: it is told nothing.
   *
   * Called once for each `withTransaction` without a `client`, under the lock. If it throws, so does `withTransaction`.
   *
   * @default a client whose `query` rejects with `InvalidConfigError`, and which is told nothing
   * @example
   * const told: string[] = [];
   * const query = async (text: string) => {
   *   told.push(text);
   *   return { rows: [] };
   * };
   * const locker = new MemoryLocker({ transaction: () => ({ query }) });
   */
  readonly transaction?: () => TransactionClient | Promise<TransactionClient>;
}
