import type { PoolLike, TransactionClient } from "./contract/clients.ts";
import type { LockDefaults } from "./contract/lock-defaults.ts";
import type { LockIdFunction } from "./contract/lock-id.ts";
import type { Duration, Logger } from "./contract/locker.ts";
import type {
  OpenTelemetryMeterProvider,
  OpenTelemetryTracerProvider,
} from "./contract/opentelemetry-providers.ts";
import type { PostgresJs } from "./postgres/postgres-js.ts";
import type { CircuitBreaker } from "./runtime/circuit-breaker.ts";

/** How a locker reaches its database: exactly one of these four options. */
export interface LockerConnection {
  /**
   * A node-postgres `Pool`. It remains the caller's: `close()` doesn't end it. Locks use connections of the pool while they are held.
   *
   * @example
   * const locker = new PostgresLocker({ pool: new pg.Pool() });
   */
  readonly pool?: PoolLike;
  /**
   * Two pools, for a service whose reads go to another server. Locks live on `write`; `ping()` checks `read` as well. Both remain the
   * caller's.
   *
   * @example
   * const locker = new PostgresLocker({ database: { write: primary, read: replica } });
   */
  readonly database?: { readonly write: PoolLike; readonly read?: PoolLike };
  /**
   * A connection string. The locker makes its own node-postgres pool, and ends it on `close()`.
   *
   * @example
   * const locker = new PostgresLocker({ connectionString: process.env.DATABASE_URL });
   */
  readonly connectionString?: string;
  /**
   * The `sql` of postgres.js. It remains the caller's. The locker opens its own connections with the options of `sql` and ends them on
   * `close()`: at most `sql.options.max` while locks are held or acquired, plus those on which callers wait. It runs nothing on `sql`
   * itself, so `sql.end()` ends no lock. docs/drivers.md says what differs from a node-postgres `Pool`.
   */
  readonly sql?: PostgresJs;
}

export interface PostgresLockerOptions extends LockerConnection {
  /**
   * Keeps services that share a database apart: an int32 that is part of the lock id.
   *
   * @default 0
   * @example
   * const locker = new PostgresLocker({ pool, namespace: 7 });
   */
  readonly namespace?: number;
  /**
   * How long a call waits for a connection of the pool. 0 means the default; a negative duration means no bound. When the time is up, the
   * call rejects with a `LockNotAcquiredError` whose `reason` is `"pool-saturated"` or `"connection-timeout"`.
   *
   * @default "5s"
   * @example
   * const locker = new PostgresLocker({ pool, connWaitTimeout: "500ms" });
   */
  readonly connWaitTimeout?: Duration;
  /**
   * What to do if a connection pooler stands in front of the server. `"refuse"`: reject with `PoolerDetectedError`. `"session"`: accept it,
   * because it keeps a session for each client, as PgBouncer does in session mode.
   *
   * @default "refuse"
   * @example
   * const locker = new PostgresLocker({ pool, pooler: "session" });
   */
  readonly pooler?: "refuse" | "session";
  /**
   * `"shared"`: as few connections of the pool as possible carry all locks, and operations that come at the same time are sent together.
   * `"dedicated"`: each lock has its own connection, as with the Go package.
   *
   * @default "shared"
   * @example
   * const locker = new PostgresLocker({ pool, sessions: "dedicated" });
   */
  readonly sessions?: "dedicated" | "shared";
  /**
   * With `sessions: "shared"`: how many locks a connection carries before another one is opened. A whole number from 1 up. A high number
   * costs time, because the server walks all of a session's locks at the end of each of its statements.
   *
   * @default 1000
   * @example
   * const locker = new PostgresLocker({ pool, maxLocksPerSession: 100 });
   */
  readonly maxLocksPerSession?: number;
  /**
   * With `sessions: "shared"`: whether the locker tells the keys of its locks to any client of the database that asks, as `pg-locker ls`
   * does. One of its sessions, once it has been open for a second, listens for such questions (`LISTEN`). PostgreSQL up to 18 wakes that
   * session for every notification in the database, which takes some 12 µs.
   *
   * @default true
   * @example
   * const locker = new PostgresLocker({ pool, tellKeys: false });
   */
  readonly tellKeys?: boolean;
  /**
   * On how many connections beside the pool callers may wait inside the server. A connection also counts while it carries a lock that was
   * waited for on it. Further callers try about twice a second until a connection is free. A whole number from 1 up.
   *
   * One is enough to wait for one lock. Each further one makes the hand-over of one more lock immediate, and may use one more of the
   * server's `max_connections` for each process.
   *
   * @default 4
   * @example
   * const locker = new PostgresLocker({ pool, maxWaitingSessions: 1 });
   */
  readonly maxWaitingSessions?: number;
  /**
   * Who ends an expired lock.
   *
   * `"client"`: the holder stops relying on the lock, but it stays in the server and keeps others out until `release()`, `refresh()` or
   * `close()`, or until the holder's process ends. The logger gets one warning for each such lock.
   *
   * `"server"`: the database ends the lock's session and so frees the lock, whatever has happened to the holder. A TTL must then be from
   * 1 ms to 2147483647 ms. The lock of a leader (`elect`) is always of this kind.
   *
   * @default "client"
   * @example
   * const locker = new PostgresLocker({ pool, ttlEnforcement: "server" });
   */
  readonly ttlEnforcement?: "client" | "server";
  /**
   * How long nobody is granted a lock after a restart, a crash or a failover of the server. All locks are gone then, but a holder that is
   * cut off doesn't know it, and relies on its lock for the rest of its TTL. With a grace, the next holder comes only after that. A TTL
   * longer than the grace is refused with `InvalidTtlError`, and the default TTL is at most the grace.
   *
   * During the grace, callers with `wait` keep waiting, and others get a `LockNotAcquiredError` with the reason `"recovering"`. It must be
   * the same for all lockers that use a key. It costs one statement for each session that is opened.
   *
   * From 1 ms to 2147483647 ms. docs/guarantees.md says what it doesn't cover.
   *
   * @default off
   * @example
   * const locker = new PostgresLocker({ pool, recoveryGrace: "10s" });
   * await locker.withLock("nightly", work, { ttl: "10s", wait: true });
   */
  readonly recoveryGrace?: Duration;
  /**
   * Values for options that a call leaves out: `{ ttl, wait, autoRefresh }`. See {@link LockDefaults}.
   *
   * @default none
   * @example
   * const locker = new PostgresLocker({ pool, defaults: { ttl: "1m", wait: "10s" } });
   */
  readonly defaults?: LockDefaults;
  /**
   * Computes the id of a lock: a bigint from -2^63 to 2^63-1, the same for the same arguments in every process. With {@link sha256LockId}
   * nobody can choose a key whose id collides with another's. Lockers with different functions don't exclude each other. The Go package
   * uses the default.
   *
   * @default `lockId`, which is that of the Go package
   * @example
   * const locker = new PostgresLocker({ pool, lockId: sha256LockId });
   */
  readonly lockId?: LockIdFunction;
  /**
   * A circuit breaker for calls to the database: anything with cockatiel's `execute(fn)`, or `createCircuitBreaker()`. While it is open,
   * `acquire` and `refresh` reject with `CircuitOpenError`; held locks stay held, and releases pass.
   *
   * @default none
   * @example
   * const locker = new PostgresLocker({ pool, circuitBreaker: createCircuitBreaker() });
   */
  readonly circuitBreaker?: CircuitBreaker;
  /**
   * A logger: anything with `debug`, `info`, `warn` and `error`, each of which takes facts and a message, such as a pino logger or
   * `console`.
   *
   * @default nothing is logged
   * @example
   * const locker = new PostgresLocker({ pool, logger: pino() });
   */
  readonly logger?: Logger;
  /**
   * The OpenTelemetry provider for the spans of `acquire`, `refresh`, `release`, `ping` and `close`.
   *
   * @default the global provider of `@opentelemetry/api`
   * @example
   * const locker = new PostgresLocker({ pool, tracerProvider });
   */
  readonly tracerProvider?: OpenTelemetryTracerProvider;
  /**
   * The OpenTelemetry provider for counters and latencies.
   *
   * @default the global provider of `@opentelemetry/api`, also one that is set later
   * @example
   * const locker = new PostgresLocker({ pool, meterProvider });
   */
  readonly meterProvider?: OpenTelemetryMeterProvider;
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
   * Makes the client that `withTransaction` passes to its function: a fake that records its statements, or the client of a test database
   * such as PGlite. The locker sends it `begin` before the function, `commit` or `rollback` after it, and nothing else. If the caller
   * gives `withTransaction` a client of its own, the locker sends that client nothing.
   *
   * Called once for each `withTransaction` without a `client`, under the lock. If it throws, so does `withTransaction`.
   *
   * @default a client whose `query` rejects with `InvalidConfigError`, and which gets no statement
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
