import { assertWait } from "./acquire-options.ts";
import { InvalidConfigError, InvalidTtlError } from "./errors.ts";
import type { AcquireOptions } from "./locker.ts";

/** Milliseconds. */
export const defaultTtl = 30_000;

/**
 * The values that a locker uses for options that a call leaves out or gives as `undefined`. An option of the call takes precedence:
 * `wait: 0` tries once, whatever the default.
 */
export interface LockDefaults {
  /**
   * The TTL of every lock; for `withTransaction` only with `ttlEnforcement: "server"`.
   *
   * When it passes, the server keeps the lock until `release()`, unless the locker has `ttlEnforcement: "server"`: see
   * {@link AcquireOptions.ttl}. That of a leader is always enforced.
   *
   * @default "30s", or `recoveryGrace` if that is less
   * @example
   * new PostgresLocker({ pool, defaults: { ttl: "10s" } });
   */
  readonly ttl?: AcquireOptions["ttl"];
  /**
   * The `wait` of every call that takes a lock, including `withTransaction`.
   *
   * @default 0
   * @example
   * new PostgresLocker({ pool, defaults: { wait: "5s" } });
   */
  readonly wait?: AcquireOptions["wait"];
  /**
   * The `autoRefresh` of every call that takes a lock or a permit, with or without a function. A leader's lock always refreshes itself,
   * and that of `withTransaction` lasts as long as its transaction.
   *
   * @default `true` with a function, `false` without
   * @example
   * new PostgresLocker({ pool, defaults: { autoRefresh: true } });
   */
  readonly autoRefresh?: boolean;
}

/** Checked `LockDefaults`, with every duration in milliseconds. */
export interface CheckedDefaults {
  readonly ttl: number;
  readonly wait: number;
  readonly autoRefresh: boolean | undefined;
}

/**
 * Checks the option `defaults` of a locker.
 *
 * @param ttl the TTL if `defaults` has none, in milliseconds
 * @throws {InvalidConfigError} names the field
 */
export function checkDefaults(
  defaults: LockDefaults | undefined,
  { ttl, assertTtl }: { ttl: number; assertTtl: (got: unknown) => number },
): CheckedDefaults {
  const given = defaults ?? {};
  return {
    ttl: given.ttl === undefined ? ttl : named("ttl", given.ttl, assertTtl),
    wait: named("wait", given.wait, assertWait),
    autoRefresh: given.autoRefresh,
  };
}

function named(field: "ttl" | "wait", got: unknown, check: (got: unknown) => number): number {
  try {
    return check(got);
  } catch (cause) {
    if (!(cause instanceof InvalidTtlError) && !(cause instanceof InvalidConfigError)) throw cause;
    const wants = `a \`${field}\` that \`acquire\` of this locker takes`;
    throw new InvalidConfigError({ field: `defaults.${field}`, got, wants, cause });
  }
}
