import { assertAcquireOptions, assertFunction } from "./acquire-options.ts";
import { InvalidConfigError } from "./errors.ts";
import type { Lock } from "./lock.ts";
import type { AcquireOptions, TryResult } from "./locker.ts";

/**
 * Those of a lock, except for two: a permit has no reader mode, and no fencing token, because its holders are not one after the
 * other.
 */
export interface PermitOptions
  extends Pick<AcquireOptions, "ttl" | "wait" | "signal" | "autoRefresh" | "holdAtLeast"> {}

/**
 * Up to so many callers at the same time, in whatever processes. A permit is a {@link Lock}: its `key` is that of the semaphore,
 * its `id` that of the place which it has, and what holds for the TTL, the loss, the refresh and the release of a lock holds for it.
 *
 * Those who wait are served one after the other, in the order in which the server queues them: a permit that becomes free is for the
 * first of them, and nobody who comes later gets past. Its methods may be called without their object.
 */
export interface Semaphore {
  readonly key: string;
  /** How many can be held at the same time. */
  readonly permits: number;
  /**
   * Takes a permit. Waits for one only with the option `wait`.
   *
   * Inside the functions of `withPermit` that hold all of the permits a wait could never end: such a call tries once.
   *
   * On failure nothing is held.
   *
   * @throws {InvalidConfigError} those who hold a permit give another number of `permits`: its field is `"permits"`, and the message
   *   names both numbers. Or an option is unknown or of the wrong type
   * @throws {LockNotAcquiredError} `"held"`: all permits are held, or others wait for one. `"wait-timeout"`: so they were for all of the
   *   wait. Otherwise as for a lock
   * @throws what `acquire` of a locker throws
   */
  acquire(options?: PermitOptions): Promise<Lock>;
  /** As {@link acquire}, but returns `undefined` if all permits are held, or others wait for one, for all of the wait if there is one. */
  tryAcquire(options?: PermitOptions): Promise<Lock | undefined>;
  /**
   * Runs `fn` with a permit, which is refreshed meanwhile and released however `fn` ends. If the permit is lost, the call rejects at once
   * with what `permit.signal` aborts with.
   *
   * @throws what {@link acquire} throws; then `fn` has not run
   * @throws {LockLostError} @throws {LockExpiredError} the permit ended before `fn` did
   * @throws what `fn` throws
   */
  withPermit<T>(fn: (permit: Lock) => T | Promise<T>, options?: PermitOptions): Promise<T>;
  /** As {@link withPermit}, but returns `{ acquired: false }`, without running `fn`, if {@link tryAcquire} would return `undefined`. */
  tryWithPermit<T>(fn: (permit: Lock) => T | Promise<T>, options?: PermitOptions): Promise<TryResult<T>>;
}

/** What a locker has for semaphores. */
export interface SemaphoreMaker {
  /**
   * A semaphore: up to `permits` callers, in whatever processes, hold a permit of `key` at the same time. Takes nothing and asks
   * nothing. It has nothing to do with the lock of the same key.
   *
   * All have to give the same number: whoever has another one than those who hold a permit is refused, with an error that names
   * both.
   *
   * @param permits a whole number from 1 to 1000
   * @throws {EmptyKeyError} @throws {InvalidKeyError}
   * @throws {InvalidConfigError} `permits` is not such a number
   * @example
   * const slots = locker.semaphore("api", 3);
   * await slots.withPermit((permit) => fetch(url, { signal: permit.signal }), { wait: "10s" });
   */
  semaphore(key: string, permits: number): Semaphore;
}

/** More would be a table of locks that the server walks for each look. */
const mostPermits = 1_000;

/** @throws {InvalidConfigError} */
export function assertPermits(got: unknown): void {
  if (Number.isInteger(got) && (got as number) >= 1 && (got as number) <= mostPermits) return;
  throw new InvalidConfigError({ field: "permits", got, wants: `a whole number from 1 to ${mostPermits}` });
}

const known = ["ttl", "wait", "signal", "autoRefresh", "holdAtLeast"];

/** @throws {InvalidConfigError} names the option */
export function assertPermitOptions(options: unknown): PermitOptions {
  return options === undefined ? {} : assertAcquireOptions(options, known);
}

/** Those of a permit around a function: it refreshes itself unless told otherwise. @throws {InvalidConfigError} names the option */
export function assertPermitScope(fn: unknown, options: unknown): PermitOptions {
  assertFunction(fn);
  const checked = assertPermitOptions(options);
  return { ...checked, autoRefresh: checked.autoRefresh ?? true };
}
