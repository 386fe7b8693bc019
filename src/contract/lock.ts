import type { AbortSignalLike, Duration, LockMode } from "./locker.ts";

export interface RefreshOptions {
  /**
   * Ends the call when it aborts: the call then rejects with the signal's own `reason`. The refresh may still take effect.
   *
   * @default none
   * @example
   * await lock.refresh("1m", { signal: AbortSignal.timeout(1_000) });
   */
  readonly signal?: AbortSignalLike;
}

/**
 * The handle of a lock. Its methods may overlap. A second `release()` throws and changes nothing.
 *
 * With `await using`, the lock is released at the end of the block; if the lock has already ended by then, nothing is thrown.
 */
export interface Lock extends AsyncDisposable {
  /** The key as text. A byte that isn't part of valid UTF-8 is shown as a lone surrogate, U+DC80 to U+DCFF, as in Python. */
  readonly key: string;
  /** The number by which PostgreSQL knows the lock: see `lockId`. */
  readonly id: bigint;
  readonly mode: LockMode;
  /**
   * The TTL in milliseconds, as last acquired or refreshed. Does not count down. When it passes, the server keeps the lock until
   * {@link release}, unless the locker has `ttlEnforcement: "server"`: see {@link AcquireOptions.ttl}.
   */
  readonly ttl: number;
  /**
   * Whether the holder may rely on the lock. Computed from the clock and the session on each read, so it is right even if the event
   * loop was blocked.
   */
  readonly held: boolean;
  /** Whether the TTL passed without a refresh. By default the lock still keeps others out: see {@link ttl}. */
  readonly expired: boolean;
  /**
   * When the holder must stop relying on the lock unless it is refreshed, by this machine's wall clock (`Date.now()`). Meant for people
   * and logs: code should use {@link held} or {@link remaining}, which are right even if the clock was set or the machine suspended.
   * Keeps its value once the lock has ended.
   */
  readonly expiresAt: Date;
  /** Milliseconds for which the holder may still rely on the lock without a refresh; 0 once it is no longer {@link held}. */
  readonly remaining: number;
  /**
   * A number that grows from each holder of the key to the next, even if the server crashes or fails over; `undefined`
   * without the option `fencing`. Send it with every write to the resource that the lock protects, and have the resource refuse a
   * smaller number: that stops a holder that was paused and resumes after the next one has written.
   */
  readonly fencingToken: bigint | undefined;
  /**
   * Aborts when the lock ends without a release; its reason is a `LockLostError` or a `LockExpiredError`. Never aborts on a release.
   * Pass it to everything that runs under the lock.
   */
  readonly signal: AbortSignal;
  /** Throws unless the lock is {@link held}. @throws {LockNotHeldError} */
  assertHeld(): void;
  /**
   * Proves that the session is alive and still the same, so that the holder may rely on the lock for another `ttl` from now.
   *
   * A refresh that fails ends the lock: its session is gone, and {@link signal} aborts. A refresh that is stopped by the caller's
   * signal, a bad `ttl` or the circuit breaker leaves the lock as it was.
   *
   * @param ttl the new TTL; without it, the TTL stays as it is. When it passes, the server keeps the lock, unless the locker has
   *   `ttlEnforcement: "server"`: see {@link Lock.ttl}
   * @throws {LockNotHeldError} the lock was released, expired, lost or closed; an expired lock is freed in the server
   * @throws {InvalidTtlError} `ttl` is not a finite duration of at least 1 ms, or the server is to enforce it and can't
   * @throws {CircuitOpenError} the circuit breaker refused
   */
  refresh(ttl?: Duration, options?: RefreshOptions): Promise<void>;
  /**
   * Gives the lock back. Neither the circuit breaker nor a signal stops it. Whatever the outcome, the lock is not held
   * afterwards.
   *
   * @throws {LockNotHeldError} the lock was no longer held: released, expired, lost or closed
   */
  release(): Promise<void>;
}

/** The handle of several locks that were acquired together. */
export interface LockGroup extends AsyncDisposable {
  /** The locks, in the order in which the keys were given. */
  readonly locks: readonly Lock[];
  /** Whether all of the locks are held. */
  readonly held: boolean;
  /** When the first of the locks expires: see {@link Lock.expiresAt}. */
  readonly expiresAt: Date;
  /** Milliseconds until the first of the locks expires: see {@link Lock.remaining}. */
  readonly remaining: number;
  /** Aborts when the first of the locks ends without a release, with that lock's reason. */
  readonly signal: AbortSignal;
  /** Throws unless all of the locks are held. @throws {LockNotHeldError} names the first that is not */
  assertHeld(): void;
  /** Refreshes all of the locks; rejects with the first failure once every refresh has ended. See {@link Lock.refresh}. */
  refresh(ttl?: Duration, options?: RefreshOptions): Promise<void>;
  /** Releases all of the locks at once; rejects with the first failure once every release has ended. */
  release(): Promise<void>;
}
