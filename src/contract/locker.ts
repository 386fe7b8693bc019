import type { LeaderElector } from "./election.ts";
import type { SemaphoreMaker } from "./semaphore.ts";

/**
 * A length of time: a number of milliseconds, or a string in Go's grammar (`"5s"`, `"1m30s"`, `"250ms"`). A string
 * always has a unit: `"5"` is refused.
 */
export type Duration = number | string;

export type LockMode = "exclusive" | "shared";

/** What is needed of an `AbortSignal`: those of other realms, and of polyfills such as `abort-controller`, fit as well. */
export interface AbortSignalLike {
  readonly aborted: boolean;
  readonly reason?: unknown;
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

export interface AcquireOptions {
  /**
   * By default the lock stays in the server when this has passed, and keeps others out until `release()`, `refresh()` or `close()`.
   * With the locker's option `ttlEnforcement: "server"` PostgreSQL ends it.
   *
   * It is how long the holder may rely on the lock without a refresh, counted from the moment when the granting statement was
   * sent, so that the holder stops first.
   *
   * @default "30s", or the locker's `recoveryGrace` if that is less
   * @example
   * await locker.acquire("invoice:42", { ttl: "5m" });
   */
  readonly ttl?: Duration;
  /**
   * How long to wait for a holder to give the lock back: a duration, or `true` for as long as it takes. 0: try once. When it has passed,
   * the call rejects with `LockNotAcquiredError`, whose `reason` is `"wait-timeout"`.
   *
   * Callers of one locker are served in order of arrival. The first of them waits inside the server, in its own order, on one of at most
   * `maxWaitingSessions` connections beside the pool. What waiting can mend (a restart, a failover, a full pool) doesn't end a wait
   * before its bound; then the `cause` of the error is the last fault.
   *
   * @default 0
   * @example
   * await locker.acquire("invoice:42", { wait: "10s" });
   */
  readonly wait?: Duration | true;
  /**
   * Gives up when it aborts; the call then rejects with the signal's own `reason`, and a lock that is granted all the same is given back.
   * One signal may serve any number of calls.
   *
   * @default none
   * @example
   * await locker.acquire("invoice:42", { wait: true, signal: AbortSignal.timeout(1_000) });
   */
  readonly signal?: AbortSignalLike;
  /**
   * Who else may hold the key: any number of `"shared"` holders exclude an exclusive one, and it excludes them.
   *
   * @default "exclusive"
   * @example
   * await locker.acquire("price-list", { mode: "shared" });
   */
  readonly mode?: LockMode;
  /**
   * Refreshes the lock at a third of its TTL, until it ends. A lock that nobody releases is then held for as long as the process lives.
   *
   * @default false; true for `withLock` and `tryWithLock`
   * @example
   * await using lock = await locker.acquire("invoice:42", { autoRefresh: true });
   */
  readonly autoRefresh?: boolean;
  /**
   * Gives the lock a fencing token, see {@link Lock.fencingToken}. Each one costs the server a write to disk.
   *
   * @default false
   * @example
   * const { fencingToken } = await locker.acquire("invoice:42", { fencing: true });
   */
  readonly fencing?: boolean;
  /**
   * How long the lock is kept at the least, from its grant, however early it is released, for jobs in a fleet whose clocks differ. A
   * release before that returns at once; the handle is no longer held then, but nobody gets the lock until the time has passed. It is
   * free at once if the process or its session ends, or on a `close()` without a `drain`. Not for `acquireAll`. See docs/hold-at-least.md.
   *
   * @default 0: it is given back when it is released
   * @example
   * await locker.tryWithLock("digest", send, { holdAtLeast: "30s" });
   */
  readonly holdAtLeast?: Duration;
}

/** What `tryWithLock` returns. */
export type TryResult<T> = { readonly acquired: false } | { readonly acquired: true; readonly value: T };

export interface RefreshOptions {
  /**
   * Stops waiting for the result when it aborts; the call then rejects with the signal's own `reason`. The refresh itself may still take
   * effect.
   *
   * @default none
   * @example
   * await lock.refresh("1m", { signal: AbortSignal.timeout(1_000) });
   */
  readonly signal?: AbortSignalLike;
}

export interface CloseOptions {
  /**
   * How long to wait for the locks that are held, before they are freed. 0: not at all.
   *
   * @default 0
   * @example
   * await locker.close({ drain: "20s" });
   */
  readonly drain?: Duration;
}

export interface PingOptions {
  /**
   * Gives up when it aborts; the call then rejects with the signal's own `reason`.
   *
   * @default none
   * @example
   * await locker.ping({ signal: AbortSignal.timeout(1_000) });
   */
  readonly signal?: AbortSignalLike;
}

/** What a locker has at one moment. Made by counting; nothing is asked of the server. */
export interface LockerStats {
  /** Held by it, those of transactions and those that have expired in the server's keeping included. */
  readonly locks: number;
  /** Connections that carry its locks, or on which callers wait. */
  readonly sessions: number;
  /** Callers that wait for a holder. */
  readonly waiting: number;
  /** Callers that try, or whose abandoned try is being undone. */
  readonly inFlight: number;
  readonly closed: boolean;
}

/**
 * Hands out locks. Safe to use from any number of callers at once; its methods may be called without their object.
 */
export interface Locker extends LeaderElector, SemaphoreMaker, AsyncDisposable {
  /**
   * Takes the lock of `key`. Waits for a holder only with the option `wait`.
   *
   * Inside the function of `withLock` a wait for the same key could never end: such a call tries once.
   *
   * On failure nothing is held and no session is reserved.
   *
   * @throws {LockNotAcquiredError} held elsewhere for all of the wait, or no session was available; see its `reason`
   * @throws {EmptyKeyError} `key` is empty
   * @throws {InvalidKeyError} `key` is not a string, or is ill-formed UTF-16
   * @throws {InvalidTtlError} `ttl` is not a positive, finite duration
   * @throws {InvalidConfigError} an option is unknown or of the wrong type
   * @throws {CircuitOpenError} the circuit breaker refused
   * @throws {LockerClosedError} after {@link close}
   * @throws {StandbyError} the server is a standby, whose locks exclude nobody on the primary
   * @throws {PoolerDetectedError} the session is not the server's own
   * @throws {ServerTooOldError} @throws {LockTableFullError}
   * @throws {LocksNotKeptError} the server keeps no lock that it grants; found with the first that a locker is granted
   * @throws {DatabaseError} PostgreSQL or the driver failed
   * @throws the `reason` of `options.signal`, when that aborts
   */
  acquire(key: string, options?: AcquireOptions): Promise<Lock>;
  /**
   * As {@link acquire}, but resolves with `undefined` if the lock is held elsewhere, for all of the wait if there is one. Every
   * other failure throws; so does `"recovering"`, because `undefined` says that somebody else is at work.
   */
  tryAcquire(key: string, options?: AcquireOptions): Promise<Lock | undefined>;
  /**
   * Takes the locks of several keys, all or none, within one `wait`. They are taken in the order of their ids, so that two
   * callers that want some of the same keys never keep each other waiting for ever.
   *
   * While it waits for the next one it holds those before, and refreshes them. On failure none is held.
   *
   * @throws what {@link acquire} throws; a `LockNotAcquiredError` says which key
   * @throws {InvalidConfigError} `keys` is no array, or an empty one, or a key occurs twice
   * @throws {LockLostError} @throws {LockExpiredError} one was lost while another was awaited
   */
  acquireAll(keys: readonly string[], options?: AcquireOptions): Promise<LockGroup>;
  /**
   * Runs `fn` under the lock of `key`, which is refreshed while `fn` runs, and released however it ends.
   *
   * When the lock is lost, the call rejects at once with what `lock.signal` aborts with, even if `fn` ignores that signal
   * and runs on. An error of `fn` wins over one of the release, which it carries as `suppressed`.
   *
   * @throws what {@link acquire} throws; then `fn` has not run
   * @throws {LockLostError} @throws {LockExpiredError} the lock ended before `fn` did
   * @throws what `fn` throws
   */
  withLock<T>(key: string, fn: (lock: Lock) => T | Promise<T>, options?: AcquireOptions): Promise<T>;
  /** As {@link withLock}, but resolves with `{ acquired: false }`, without running `fn`, if the lock is held elsewhere. */
  tryWithLock<T>(
    key: string,
    fn: (lock: Lock) => T | Promise<T>,
    options?: AcquireOptions,
  ): Promise<TryResult<T>>;
  /**
   * Proves that locks could be taken now: that the server answers where locks live, and where reads go if that is
   * elsewhere. Has a deadline, and needs no free connection of the pool.
   *
   * @throws {DatabaseError} no answer, or an error
   * @throws {StandbyError} locks would live on a standby
   * @throws {PoolerDetectedError} a pooler stands between
   * @throws {LockerClosedError} after {@link close}
   */
  ping(options?: PingOptions): Promise<void>;
  /**
   * Frees every lock, within seconds whatever the server does, and ends what the locker itself opened. Their handles'
   * signals abort. Acquires under way reject with `LockerClosedError` and leave nothing behind.
   *
   * With `drain`, the locks that are held are first waited for, for that long at most: the functions of `withLock` and
   * `withTransaction` may come to their end. Nothing new is acquired from the call on.
   *
   * A second call resolves with the first, whatever its options.
   *
   * @example
   * process.once("SIGTERM", () => void locker.close({ drain: "20s" }));
   *
   * @throws {InvalidConfigError} `drain` is not a duration; then nothing is closed
   */
  close(options?: CloseOptions): Promise<void>;
}

/**
 * The handle a holder has. Methods may overlap; releasing twice is an error that changes nothing.
 *
 * With `await using`, the lock is released at the end of the block; a lock that has ended by then is passed over
 * quietly.
 */
export interface Lock extends AsyncDisposable {
  readonly key: string;
  /** What PostgreSQL sees; see `lockId`. */
  readonly id: bigint;
  readonly mode: LockMode;
  /** Milliseconds, as last acquired or refreshed. Does not count down. */
  readonly ttl: number;
  /**
   * Whether the holder may rely on the lock. Read from the clock and the session at the moment of asking, so it
   * is right even when the event loop was blocked.
   */
  readonly held: boolean;
  /** Whether the TTL passed without a refresh. By default the lock keeps others out all the same: see {@link AcquireOptions.ttl}. */
  readonly expired: boolean;
  /**
   * A number that grows from each holder of the key to the next, also when the server crashes or fails over; `undefined`
   * without the option `fencing`. Write it with whatever the lock protects, and let that refuse a smaller one: a holder
   * that was paused, and comes back after the next one has written, is then told so.
   */
  readonly fencingToken: bigint | undefined;
  /**
   * Aborts when holding ends without a release: its reason is a `LockLostError` or a `LockExpiredError`. Never on a
   * release. Pass it to whatever is done under the lock.
   */
  readonly signal: AbortSignal;
  /** @throws {LockNotHeldError} unless {@link held} */
  assertHeld(): void;
  /**
   * Proves that the session still lives and is the same one, and lets the holder rely on the lock for another `ttl` from now.
   *
   * A refresh that fails ends the lock: its session is gone, and {@link signal} aborts. A refresh that the caller's
   * signal, a bad `ttl` or the circuit breaker stops leaves the lock as it was.
   *
   * @param ttl default: as before
   * @throws {LockNotHeldError} released, expired, lost or closed; an expired lock is freed in the server
   * @throws {InvalidTtlError} `ttl` is not a positive, finite duration
   * @throws {CircuitOpenError} the circuit breaker refused
   */
  refresh(ttl?: Duration, options?: RefreshOptions): Promise<void>;
  /**
   * Gives the lock back. Neither the circuit breaker nor a signal stops it. Whatever the outcome, nothing is held
   * afterwards.
   *
   * @throws {LockNotHeldError} it was no longer held: released, expired, lost or closed
   */
  release(): Promise<void>;
}

/** Several locks, taken together. */
export interface LockGroup extends AsyncDisposable {
  /** The locks, in the order in which the keys were given. */
  readonly locks: readonly Lock[];
  /** Whether all of its locks are held. */
  readonly held: boolean;
  /** Aborts with the first of them whose holding ends without a release, for that one's reason. */
  readonly signal: AbortSignal;
  /** @throws {LockNotHeldError} of the first that is not held */
  assertHeld(): void;
  /** Refreshes each of them; rejects with the first failure, when all have answered. See {@link Lock.refresh}. */
  refresh(ttl?: Duration, options?: RefreshOptions): Promise<void>;
  /** Gives all of them back at once; rejects with the first failure, when all are given back. */
  release(): Promise<void>;
}

/** pino and `console` both fit. */
export interface Logger {
  debug(facts: object, message: string): void;
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

/**
 * What is needed of the client of a transaction. Those of node-postgres fit, and so does an object that runs a statement in the
 * transaction of another library.
 *
 * All calls of the locker are `query(text, values)`, with strings and nulls as values, for the parameters `$1`, `$2` and so
 * on. They read the first row by the name of its column, which is a text.
 */
export interface TransactionClient {
  query(text: string, values?: unknown[]): Promise<{ rows: Record<string, unknown>[] }>;
}

export interface TransactionOptions<C extends TransactionClient = TransactionClient>
  extends Pick<AcquireOptions, "signal" | "mode"> {
  /**
   * How long PostgreSQL lets the transaction be idle, as `idle_in_transaction_session_timeout`: a duration from 1 ms to 24 days.
   * After that it ends the session, and frees the lock; the call rejects with a `LockExpiredError` before.
   *
   * While the process lives and the link does, the locker keeps the transaction alive, however long `fn` is at something else.
   * But a statement of `fn` that takes longer than that ends the call, too: nothing tells it from a dead link. On a client of
   * another library than node-postgres nothing is kept alive: there, `fn` sends a statement within each `ttl`.
   *
   * @default "30s" with `ttlEnforcement: "server"`, otherwise none
   * @example
   * await locker.withTransaction("invoice:42", pay, { ttl: "1m" });
   */
  readonly ttl?: Duration;
  /**
   * How long to wait for a holder to give the lock back: a duration, or `true` for as long as it takes. 0: try once. The call waits in the server, in its transaction, for seconds at a time: callers that wait are served in the order in
   * which they came. If transactions wait for each other, one of them gets a `DatabaseError` with the `sqlState` 40P01.
   *
   * @default 0
   * @example
   * await locker.withTransaction("invoice:42", pay, { wait: "10s" });
   */
  readonly wait?: Duration | true;
  /**
   * A client with a transaction begun, which stays the caller's to commit or to roll back: the lock lasts until then.
   *
   * @default a client of the pool, with a transaction of its own
   * @example
   * await client.query("begin");
   * await locker.withTransaction("invoice:42", pay, { client });
   * await client.query("commit");
   */
  readonly client?: C;
}
