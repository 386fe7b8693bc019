import { assertAcquireOptions, assertScope } from "./acquire-options.ts";
import { InvalidConfigError } from "./errors.ts";
import type { Lock } from "./lock.ts";
import type { CheckedDefaults } from "./lock-defaults.ts";
import type { LockKey } from "./lock-key.ts";
import type { AcquireOptions, TryResult } from "./locker.ts";

/**
 * The options of a permit. A permit has neither a mode nor a fencing token, because several are held at the same time.
 */
export interface PermitOptions
  extends Pick<AcquireOptions, "ttl" | "wait" | "signal" | "autoRefresh" | "holdAtLeast"> {}

/**
 * Lets a fixed number of callers, in any number of processes, hold a permit at the same time. A permit is a {@link Lock}: its `key` is
 * that of the semaphore, its `id` is that of the place it occupies, and its TTL, loss, refresh and release are those of a lock.
 *
 * Waiting callers are served one after the other, in the server's queue order: a permit that becomes free goes to the first of them,
 * and no later caller overtakes. The methods are bound, so they can be passed as functions.
 */
export interface Semaphore {
  /** The key, as `lock.key` shows it. */
  readonly key: string;
  /** The number of permits that can be held at the same time. */
  readonly permits: number;
  /**
   * Acquires a permit. Waits for one only with the option `wait`.
   *
   * If the functions of `withPermit` around the call hold all the permits, waiting would never end, so such a call tries once.
   *
   * On failure nothing is held.
   *
   * @throws {InvalidConfigError} the current holders use a different number of `permits` (`field` is `"permits"`, and the message names
   *   both numbers), or an option is unknown or of the wrong type
   * @throws {LockNotAcquiredError} `"held"`: all permits are held, or others wait for one. `"wait-timeout"`: that was still so at the end
   *   of the wait. The other reasons are those of a lock
   * @throws what `acquire` of a locker throws
   */
  acquire(options?: PermitOptions): Promise<Lock>;
  /** Like {@link acquire}, but resolves with `undefined` if all permits are held or others wait for one, or still so at the end of `wait`. */
  tryAcquire(options?: PermitOptions): Promise<Lock | undefined>;
  /**
   * Runs `fn` with a permit. The permit is refreshed while `fn` runs, and released when `fn` returns or throws. If it is lost, the call
   * rejects at once with the reason of `permit.signal`.
   *
   * @throws what {@link acquire} throws; then `fn` has not run
   * @throws {LockLostError} @throws {LockExpiredError} the permit ended before `fn` did
   * @throws what `fn` throws
   */
  withPermit<T>(fn: (permit: Lock) => T | Promise<T>, options?: PermitOptions): Promise<T>;
  /** Like {@link withPermit}, but resolves with `{ acquired: false }`, without running `fn`, if {@link tryAcquire} would get no permit. */
  tryWithPermit<T>(fn: (permit: Lock) => T | Promise<T>, options?: PermitOptions): Promise<TryResult<T>>;
}

/** The part of a locker that makes semaphores. */
export interface SemaphoreMaker {
  /**
   * Returns a semaphore: up to `permits` callers, in any number of processes, hold a permit of `key` at the same time. Acquires nothing
   * and asks the server nothing. It is independent of the lock of the same key.
   *
   * All callers must give the same number of permits: a caller whose number differs from that of the current holders is refused, with
   * an error that names both numbers.
   *
   * @param permits a whole number from 1 to 1000
   * @throws {EmptyKeyError} @throws {InvalidKeyError}
   * @throws {InvalidConfigError} `permits` is not such a number
   * @example
   * const slots = locker.semaphore("api", 3);
   * await slots.withPermit((permit) => fetch(url, { signal: permit.signal }), { wait: "10s" });
   */
  semaphore(key: LockKey, permits: number): Semaphore;
}

/** The most permits of a semaphore: each check walks the server's lock table, which grows with them. */
const mostPermits = 1_000;

/** Checks a number of permits. @throws {InvalidConfigError} */
export function assertPermits(got: unknown): void {
  if (Number.isInteger(got) && (got as number) >= 1 && (got as number) <= mostPermits) return;
  throw new InvalidConfigError({ field: "permits", got, wants: `a whole number from 1 to ${mostPermits}` });
}

const known = ["ttl", "wait", "signal", "autoRefresh", "holdAtLeast"];

/** Checks the options of a permit. @throws {InvalidConfigError} names the option */
export function assertPermitOptions(options: unknown): PermitOptions {
  return options === undefined ? {} : assertAcquireOptions(options, known);
}

/** Checks the options of `withPermit`, as {@link assertScope} does those of `withLock`. @throws {InvalidConfigError} names the option */
export function assertPermitScope(
  fn: unknown,
  options: unknown,
  defaults: Pick<CheckedDefaults, "autoRefresh">,
): PermitOptions {
  return assertScope(fn, options, defaults, known);
}
