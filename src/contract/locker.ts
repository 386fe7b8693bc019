import type { SessionClient } from "./clients.ts";
import type { LeaderElector } from "./election.ts";
import type { Lock, LockGroup } from "./lock.ts";
import type { LockEventListener, LockEventName } from "./lock-events.ts";
import type { InspectOptions, LockInspection } from "./lock-inspection.ts";
import type { LockKey } from "./lock-key.ts";
import type { NamespacedLocker } from "./namespaced-locker.ts";
import type { SemaphoreMaker } from "./semaphore.ts";
import type { UnderLock } from "./under-lock.ts";

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
   * `true`: inside the function of a `withLock` for the same key, takes part in the lock that is held there, instead of being refused.
   *
   * Inside is every call that the function makes, and every call that those make. Those of one function exclude each other, and `wait`
   * is for that; the function itself goes on beside them, unless it awaits them. The lock is given back by the outer call, whose `ttl`
   * and `autoRefresh` count; a lock that is shared there is not had alone here.
   *
   * Not for what a limiter runs (p-queue, bottleneck): it starts one caller's work from inside another's function, and the two would
   * share a lock. See docs/not-supported.md.
   *
   * @default false
   * @example
   * await locker.withLock("cart:7", () => addTo("cart:7", { reentrant: true }));
   */
  readonly reentrant?: boolean;
  /**
   * The session to take the lock on: a connected client of node-postgres that stays the caller's, for what must run on the very session
   * that has the lock. Not a `Pool`. The end of its connection is the end of the lock, and `lock.signal` aborts.
   *
   * The lock has nothing to do with a transaction of the client: a rollback keeps it. Statements of the locker's stand in line with the
   * caller's own, so `ttl` has to be longer than the longest of those. One key can be held once on a client.
   *
   * Release the lock before the client goes back to its pool. Only with a `PostgresLocker`, and not with `ttlEnforcement: "server"`.
   *
   * @default a connection of the locker's choice
   * @example
   * const client = await pool.connect();
   * await using lock = await locker.acquire("invoice:42", { client });
   */
  readonly client?: SessionClient;
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
   * Inside the function of `withLock`, a wait without a bound for the same key could never end: such a call tries once. With the option
   * `reentrant` it takes part in the lock.
   *
   * On failure nothing is held and no session is reserved.
   *
   * @throws {LockNotAcquiredError} held elsewhere for all of the wait, or no session was available; see its `reason`
   * @throws {EmptyKeyError} `key` is empty
   * @throws {InvalidKeyError} `key` is neither a string nor a `Uint8Array`, or is ill-formed UTF-16
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
  acquire(key: LockKey, options?: AcquireOptions): Promise<Lock>;
  /**
   * As {@link acquire}, but resolves with `undefined` if the lock is held elsewhere, for all of the wait if there is one. Every
   * other failure throws; so does `"recovering"`, because `undefined` says that somebody else is at work.
   */
  tryAcquire(key: LockKey, options?: AcquireOptions): Promise<Lock | undefined>;
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
  acquireAll(keys: readonly LockKey[], options?: AcquireOptions): Promise<LockGroup>;
  /** As {@link acquireAll}, but returns `undefined` if somebody else holds one of them, for all of the wait if there is one. */
  tryAcquireAll(keys: readonly LockKey[], options?: AcquireOptions): Promise<LockGroup | undefined>;
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
  withLock<T>(key: LockKey, fn: (lock: Lock) => T | Promise<T>, options?: AcquireOptions): Promise<T>;
  /** As {@link withLock}, but resolves with `{ acquired: false }`, without running `fn`, if the lock is held elsewhere. */
  tryWithLock<T>(
    key: LockKey,
    fn: (lock: Lock) => T | Promise<T>,
    options?: AcquireOptions,
  ): Promise<TryResult<T>>;
  /**
   * Runs `fn` under the locks of several keys, all or none, as {@link withLock} does under one. With the first of them that is lost, the
   * call rejects.
   *
   * @throws what {@link acquireAll} and {@link withLock} throw
   */
  withLocks<T>(
    keys: readonly LockKey[],
    fn: (locks: LockGroup) => T | Promise<T>,
    options?: AcquireOptions,
  ): Promise<T>;
  /**
   * A function that takes what `fn` takes, and runs it under a lock, as {@link withLock} does, whenever it is called. `this` is passed
   * on; what `fn` returns is returned as a promise. For the lock's own `signal`, use {@link withLock}.
   *
   * @param key the key, or a function that makes it of the arguments
   * @throws {InvalidConfigError} at once: `fn` is no function, or an option can't be used. A key is checked when it is used
   * @example
   * const settle = locker.wrapWithLock((account: string) => `account:${account}`, settleAccount, { wait: "10s" });
   * await settle("7");
   */
  wrapWithLock<F extends (this: never, ...args: never[]) => unknown>(
    key: LockKey | ((...args: Parameters<F>) => LockKey),
    fn: F,
    options?: AcquireOptions,
  ): UnderLock<F>;
  /**
   * The same locker, whose keys get the prefix `name` and `:`. `locker.namespace("billing").acquire("42")` takes the lock of
   * `"billing:42"`, which is also its `lock.key`; the namespace number stays what it is. May be used again on what it returns.
   *
   * It shares all sessions, and has no `close()`: what it takes is freed by that of the locker.
   *
   * @throws {EmptyKeyError} @throws {InvalidKeyError} @throws {InvalidConfigError} `name` is no string that could be a key
   */
  namespace(name: string): NamespacedLocker;
  /**
   * Who has the lock of a key, and who waits for it. Takes nothing, and waits for nobody. What it says may be over by the time it is
   * read: to do something only if nobody else does, use {@link tryAcquire}.
   *
   * A `PostgresLocker` asks the server, on a connection of its own beside the pool, within 10 s. It tells of every holder, of whichever
   * process, library or language.
   *
   * @throws {EmptyKeyError} @throws {InvalidKeyError} @throws {InvalidConfigError} @throws {LockerClosedError}
   * @throws {DatabaseError} @throws {StandbyError} the server is a standby, which doesn't know the locks of its primary
   * @throws the `reason` of `options.signal`, when that aborts
   */
  inspect(key: LockKey, options?: InspectOptions): Promise<LockInspection>;
  /** Whether anybody has the lock of a key, this locker included. As {@link inspect}, whose `held` it is. */
  isHeld(key: LockKey, options?: InspectOptions): Promise<boolean>;
  /**
   * Has `listener` called with what happens to the locks and the sessions of this locker, until the function that is returned is called.
   * The same is published for all lockers of the process on the `node:diagnostics_channel`s `pg-locker:acquired` and so on.
   *
   * Locks of `withTransaction` are not among them. What a listener throws changes nothing: Node.js prints a warning, once.
   *
   * @throws {InvalidConfigError} there is no such event, or `listener` is no function
   * @example
   * const stop = locker.on("lost", ({ key, reason }) => console.error(key, reason));
   */
  on<E extends LockEventName>(event: E, listener: LockEventListener<E>): () => void;
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

/** pino and `console` both fit. */
export interface Logger {
  debug(facts: object, message: string): void;
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}
