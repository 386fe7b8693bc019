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

/** What the locker needs of an `AbortSignal`. Signals of other realms, and of polyfills such as `abort-controller`, fit too. */
export interface AbortSignalLike {
  readonly aborted: boolean;
  readonly reason?: unknown;
  addEventListener(type: "abort", listener: () => void): void;
  removeEventListener(type: "abort", listener: () => void): void;
}

export interface AcquireOptions {
  /**
   * How long the holder may rely on the lock without a refresh, counted from when the granting statement was sent, so that the holder
   * stops before the server would. At least 1 ms.
   *
   * By default an expired lock stays in the server and keeps others out until `release()`, `refresh()` or `close()`. With the locker's
   * option `ttlEnforcement: "server"`, PostgreSQL ends it.
   *
   * @default "30s", or the locker's `recoveryGrace` if that is less
   * @example
   * await locker.acquire("invoice:42", { ttl: "5m" });
   */
  readonly ttl?: Duration;
  /**
   * How long to wait for a holder to give the lock back: a duration, `true` for as long as it takes, or 0 to try once. When the time is
   * up, the call rejects with a `LockNotAcquiredError` whose `reason` is `"wait-timeout"`.
   *
   * Callers of one locker are served in order of arrival. The first of them waits inside the server, in the server's own order, on one
   * of at most `maxWaitingSessions` connections beside the pool. Faults that pass by themselves (a restart, a failover, a full pool)
   * don't end a wait early; if the time runs out during one, it is the `cause` of the error.
   *
   * @default 0
   * @example
   * await locker.acquire("invoice:42", { wait: "10s" });
   */
  readonly wait?: Duration | true;
  /**
   * Ends the call when it aborts: the call then rejects with the signal's own `reason`, and a lock that is granted too late is given
   * back. One signal may serve any number of calls.
   *
   * @default none
   * @example
   * await locker.acquire("invoice:42", { wait: true, signal: AbortSignal.timeout(1_000) });
   */
  readonly signal?: AbortSignalLike;
  /**
   * `"shared"`: any number of shared holders may hold the lock at once. `"exclusive"`: nobody else may hold it in either mode.
   *
   * @default "exclusive"
   * @example
   * await locker.acquire("price-list", { mode: "shared" });
   */
  readonly mode?: LockMode;
  /**
   * Refreshes the lock after a third of its TTL, over and over, until it ends. A lock that nobody releases is then held for as long as
   * the process lives.
   *
   * @default false; true for `withLock` and `tryWithLock`
   * @example
   * await using lock = await locker.acquire("invoice:42", { autoRefresh: true });
   */
  readonly autoRefresh?: boolean;
  /**
   * Gives the lock a fencing token: see {@link Lock.fencingToken}. Each token costs the server a write to disk.
   *
   * @default false
   * @example
   * const { fencingToken } = await locker.acquire("invoice:42", { fencing: true });
   */
  readonly fencing?: boolean;
  /**
   * `true`: a call inside the function of a `withLock` for the same key shares the lock that is held there, instead of being refused.
   *
   * Every call that the function makes, directly or not, is inside it. Such calls exclude each other, and `wait` waits for another of
   * them; the function itself runs on alongside them unless it awaits them. The outer call releases the lock, and its `ttl` and
   * `autoRefresh` apply. A call that asks for the exclusive mode is refused if the outer lock is shared.
   *
   * Don't use it in work that a limiter (p-queue, bottleneck) runs: a limiter starts one caller's work from inside another's function,
   * so the two would share a lock. See docs/not-supported.md.
   *
   * @default false
   * @example
   * await locker.withLock("cart:7", () => addTo("cart:7", { reentrant: true }));
   */
  readonly reentrant?: boolean;
  /**
   * The client whose session takes the lock: a connected client of node-postgres, not a `Pool`, that remains the caller's. Use it for
   * statements that must run on the very session that holds the lock. When its connection ends, the lock is lost and `lock.signal`
   * aborts.
   *
   * The lock is independent of the client's transactions: a rollback keeps it. The locker's statements queue behind the caller's own,
   * so `ttl` must be longer than the longest of those. A client can hold a key once.
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
   * The minimum time from the grant for which the lock keeps others out, however early it is released: for scheduled jobs on machines
   * whose clocks differ. An earlier release returns at once and ends the handle, but nobody gets the lock until the time has passed.
   * The lock is freed at once if the process or its session ends, or on a `close()` without `drain`. Not for `acquireAll`, not with
   * `client`, whose session is the caller's, and not for a `reentrant` call that shares a lock. See docs/hold-at-least.md.
   *
   * @default 0: a release frees the lock
   * @example
   * await locker.tryWithLock("digest", send, { holdAtLeast: "30s" });
   */
  readonly holdAtLeast?: Duration;
}

/** What `tryWithLock` returns. */
export type TryResult<T> = { readonly acquired: false } | { readonly acquired: true; readonly value: T };

export interface CloseOptions {
  /**
   * How long `close()` waits for holders to release their locks before it frees them. 0: not at all.
   *
   * @default 0
   * @example
   * await locker.close({ drain: "20s" });
   */
  readonly drain?: Duration;
}

export interface PingOptions {
  /**
   * Ends the call when it aborts: the call then rejects with the signal's own `reason`.
   *
   * @default none
   * @example
   * await locker.ping({ signal: AbortSignal.timeout(1_000) });
   */
  readonly signal?: AbortSignalLike;
}

/** What a locker holds and does at one moment, counted in this process: the server is not asked. */
export interface LockerStats {
  /** Locks and permits held, including those of transactions and expired ones that are still in the server. */
  readonly locks: number;
  /** Connections that carry locks of this locker, or on which its callers wait. */
  readonly sessions: number;
  /** Callers that wait for a holder. */
  readonly waiting: number;
  /** Callers whose attempt is under way, or whose abandoned attempt is being undone. */
  readonly inFlight: number;
  readonly closed: boolean;
}

/**
 * Acquires locks. Safe to use from any number of callers at once. Its methods are bound, so they can be passed as functions.
 */
export interface Locker extends LeaderElector, SemaphoreMaker, AsyncDisposable {
  /**
   * Acquires the lock of `key`. Waits for a holder only with the option `wait`.
   *
   * Inside the function of `withLock`, waiting without a bound for the same key would never end, so such a call tries once. With the
   * option `reentrant` it shares the lock.
   *
   * On failure nothing is held and no session is reserved.
   *
   * @throws {LockNotAcquiredError} held elsewhere for all of the wait, or no session was available; see its `reason`
   * @throws {EmptyKeyError} `key` is empty
   * @throws {InvalidKeyError} `key` is neither a string nor a `Uint8Array`, or is ill-formed UTF-16
   * @throws {InvalidTtlError} `ttl` is not a finite duration of at least 1 ms
   * @throws {InvalidConfigError} an option is unknown or of the wrong type
   * @throws {CircuitOpenError} the circuit breaker refused
   * @throws {LockerClosedError} after {@link close}
   * @throws {StandbyError} the server is a standby, whose locks exclude nobody on the primary
   * @throws {PoolerDetectedError} the session is not the server's own
   * @throws {ServerTooOldError} @throws {LockTableFullError}
   * @throws {LocksNotKeptError} the server does not keep the locks that it grants; checked on a locker's first grant
   * @throws {DatabaseError} PostgreSQL or the driver failed
   * @throws the `reason` of `options.signal`, when that aborts
   */
  acquire(key: LockKey, options?: AcquireOptions): Promise<Lock>;
  /**
   * Like {@link acquire}, but resolves with `undefined` if the lock is held elsewhere, or still is at the end of `wait`. Every other
   * failure throws, also the reason `"recovering"`, because `undefined` means that somebody else holds the lock.
   */
  tryAcquire(key: LockKey, options?: AcquireOptions): Promise<Lock | undefined>;
  /**
   * Acquires the locks of several keys, all or none, within one `wait`. Every caller acquires in the order of the lock ids, so callers
   * with overlapping keys cannot deadlock.
   *
   * While it waits for one lock, it holds and refreshes those that it already has. On failure none is held.
   *
   * @throws what {@link acquire} throws; a `LockNotAcquiredError` names the key
   * @throws {InvalidConfigError} `keys` is not an array, is empty, or has a key twice
   * @throws {LockLostError} @throws {LockExpiredError} one lock ended while the call waited for another
   */
  acquireAll(keys: readonly LockKey[], options?: AcquireOptions): Promise<LockGroup>;
  /** Like {@link acquireAll}, but resolves with `undefined` if one of the locks is held elsewhere, or still is at the end of `wait`. */
  tryAcquireAll(keys: readonly LockKey[], options?: AcquireOptions): Promise<LockGroup | undefined>;
  /**
   * Runs `fn` under the lock of `key`. The lock is refreshed while `fn` runs, and released when `fn` returns or throws.
   *
   * If the lock is lost, the call rejects at once with the reason of `lock.signal`, even if `fn` ignores that signal and runs on. If
   * both `fn` and the release fail, the call rejects with the error of `fn`, which has that of the release as `suppressed`.
   *
   * @throws what {@link acquire} throws; then `fn` has not run
   * @throws {LockLostError} @throws {LockExpiredError} the lock ended before `fn` did
   * @throws what `fn` throws
   */
  withLock<T>(key: LockKey, fn: (lock: Lock) => T | Promise<T>, options?: AcquireOptions): Promise<T>;
  /** Like {@link withLock}, but resolves with `{ acquired: false }`, without running `fn`, if the lock is held elsewhere. */
  tryWithLock<T>(
    key: LockKey,
    fn: (lock: Lock) => T | Promise<T>,
    options?: AcquireOptions,
  ): Promise<TryResult<T>>;
  /**
   * Runs `fn` under the locks of several keys, all or none, as {@link withLock} does under one. The call rejects when the first of them
   * is lost.
   *
   * @throws what {@link acquireAll} and {@link withLock} throw
   */
  withLocks<T>(
    keys: readonly LockKey[],
    fn: (locks: LockGroup) => T | Promise<T>,
    options?: AcquireOptions,
  ): Promise<T>;
  /**
   * Returns a function with the parameters of `fn` that runs `fn` under a lock each time it is called, as {@link withLock} does. It
   * passes `this` on, and returns the result of `fn` as a promise. If `fn` needs the lock's `signal`, use {@link withLock}.
   *
   * @param key the key, or a function that computes it from the arguments
   * @throws {InvalidConfigError} at once: `fn` is not a function, or an option can't be used
   * @throws {InvalidTtlError} {EmptyKeyError} {InvalidKeyError} at once, too; a key that is computed is checked on each call
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
   * Returns this locker with `name` and `:` as the prefix of every key. `locker.namespace("billing").acquire("42")` acquires the lock
   * of `"billing:42"`, which is also its `lock.key`. The namespace number stays the same. Calls can be chained.
   *
   * It shares all sessions and has no `close()`: closing the locker itself frees its locks.
   *
   * @throws {EmptyKeyError} @throws {InvalidKeyError} @throws {InvalidConfigError} `name` is not a string that could be a key
   */
  namespace(name: string): NamespacedLocker;
  /**
   * Returns who holds the lock of a key and who waits for it. Acquires nothing and waits for nobody. The answer may be out of date by
   * the time it is read: to do something only if nobody else does, use {@link tryAcquire}.
   *
   * A `PostgresLocker` asks the server, on a connection of its own beside the pool, within 10 s. It sees every holder, in whichever
   * process, library or language.
   *
   * @throws {EmptyKeyError} @throws {InvalidKeyError} @throws {InvalidConfigError} @throws {LockerClosedError}
   * @throws {DatabaseError} @throws {StandbyError} the server is a standby, which can't see the locks of its primary
   * @throws the `reason` of `options.signal`, when that aborts
   */
  inspect(key: LockKey, options?: InspectOptions): Promise<LockInspection>;
  /** Returns whether anybody holds the lock of a key, this locker included: the field `held` of {@link inspect}. */
  isHeld(key: LockKey, options?: InspectOptions): Promise<boolean>;
  /**
   * Calls `listener` for each `event` of this locker's locks or sessions. Returns a function that removes it. The events of all lockers
   * of the process are also published on `node:diagnostics_channel`, as `pg-locker:acquired` and so on.
   *
   * Locks of `withTransaction` have no events. An error of a listener changes nothing: Node.js prints one warning. An error of a
   * subscriber of a channel is an `uncaughtException`, as with every channel of Node.js.
   *
   * @throws {InvalidConfigError} there is no such event, or `listener` is not a function
   * @example
   * const stop = locker.on("lost", ({ key, reason }) => console.error(key, reason));
   */
  on<E extends LockEventName>(event: E, listener: LockEventListener<E>): () => void;
  /**
   * Proves that a lock could be acquired now: that the server of the locks answers, and so does the server for reads if it is another.
   * Has a deadline, and needs no free connection of the pool.
   *
   * @throws {DatabaseError} the server did not answer, or answered with an error
   * @throws {StandbyError} the server of the locks is a standby
   * @throws {PoolerDetectedError} a pooler stands between this process and the server
   * @throws {LockerClosedError} after {@link close}
   */
  ping(options?: PingOptions): Promise<void>;
  /**
   * Frees every lock, within seconds whatever the server does, and closes the connections that the locker opened. The signals of the
   * handles abort. Acquires under way reject with `LockerClosedError` and leave nothing behind.
   *
   * With `drain`, it first waits for up to that long for holders to release their locks, so that the functions of `withLock` and
   * `withTransaction` can finish. From the call on, nothing new is acquired.
   *
   * A second call resolves together with the first, whatever its options.
   *
   * @example
   * process.once("SIGTERM", () => void locker.close({ drain: "20s" }));
   *
   * @throws {InvalidConfigError} `drain` is not a duration; then nothing is closed
   */
  close(options?: CloseOptions): Promise<void>;
}

/** What the locker needs of a logger. pino and `console` both fit. */
export interface Logger {
  debug(facts: object, message: string): void;
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}
