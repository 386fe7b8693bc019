import type { AbortSignalLike, Duration, LockMode } from "./locker.ts";

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

/**
 * The handle a holder has. Methods may overlap; releasing twice is an error that changes nothing.
 *
 * With `await using`, the lock is released at the end of the block; a lock that has ended by then is passed over
 * quietly.
 */
export interface Lock extends AsyncDisposable {
  /** Of a key of bytes that aren't UTF-8, each such byte is a lone surrogate, from U+DC80 to U+DCFF, as in Python. */
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
   * When the holder must stop relying on the lock, unless it is refreshed, by this machine's wall clock (`Date.now()`). For people and
   * logs: {@link held} and {@link remaining} are right even if that clock is set or the machine was suspended. Stays as it is when the
   * lock has ended.
   */
  readonly expiresAt: Date;
  /** Milliseconds for which the holder may still rely on the lock without a refresh; 0 once it isn't {@link held}. */
  readonly remaining: number;
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
  /** That of the first to expire: see {@link Lock.expiresAt}. */
  readonly expiresAt: Date;
  /** That of the first to expire: see {@link Lock.remaining}. */
  readonly remaining: number;
  /** Aborts with the first of them whose holding ends without a release, for that one's reason. */
  readonly signal: AbortSignal;
  /** @throws {LockNotHeldError} of the first that is not held */
  assertHeld(): void;
  /** Refreshes each of them; rejects with the first failure, when all have answered. See {@link Lock.refresh}. */
  refresh(ttl?: Duration, options?: RefreshOptions): Promise<void>;
  /** Gives all of them back at once; rejects with the first failure, when all are given back. */
  release(): Promise<void>;
}
