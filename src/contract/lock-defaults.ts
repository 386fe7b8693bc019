import { assertWait } from "./acquire-options.ts";
import { InvalidConfigError, InvalidTtlError } from "./errors.ts";
import type { AcquireOptions } from "./locker.ts";

/**
 * What a locker takes for an option that a call leaves out, or gives as `undefined`. An option that is given counts instead: `wait: 0`
 * tries once, whatever the default.
 */
export interface LockDefaults {
  /** Of every lock. Of a `withTransaction` only with `ttlEnforcement: "server"`. @default "30s", or `recoveryGrace` if that is less */
  readonly ttl?: AcquireOptions["ttl"];
  /** Of every call that takes a lock, `withTransaction` too. @default 0 */
  readonly wait?: AcquireOptions["wait"];
  /** Of every call that takes a lock, with a function or without. @default `true` with a function, `false` without */
  readonly autoRefresh?: boolean;
}

/** In milliseconds. */
export interface CheckedDefaults {
  readonly ttl: number;
  readonly wait: number;
  readonly autoRefresh: boolean | undefined;
}

/**
 * @param ttl what it is without a default, in milliseconds
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
