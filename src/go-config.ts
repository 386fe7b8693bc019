import { formatDuration, milliseconds } from "./contract/duration.ts";
import { InvalidConfigError } from "./contract/errors.ts";
import { int32Range, isInt32 } from "./contract/lock-id.ts";
import type { Duration } from "./contract/locker.ts";
import { type Check, exactly, is, optional } from "./contract/option-checks.ts";
import type { PostgresLockerOptions } from "./locker-options.ts";
import { checked } from "./option-rules.ts";

/** The settings of the Go package, under the Go package's names. */
export interface LockerConfig extends Pick<PostgresLockerOptions, "namespace" | "connWaitTimeout"> {}

/** Accepts `null` as well, which in Go leaves the default, as if the field were absent. */
const orNull =
  (check: Check): Check =>
  (value, path) =>
    value === null ? undefined : check(value, path);

const lockerConfig = exactly("an object", {
  namespace: orNull(optional(is(int32Range, isInt32))),
  connWaitTimeout: orNull(
    optional(
      is(
        'nanoseconds, as Go writes a duration (1000000 is 1 ms, the least), or a string such as "5s" or "1m30s"',
        (value) => goDuration(value) !== undefined,
      ),
    ),
  ),
});

/**
 * Reads the Go package's JSON configuration, as text or already parsed. `connWaitTimeout` is a number of nanoseconds, as Go encodes a
 * duration, so that one document means the same to both: with `{"namespace": 7, "connWaitTimeout": 5000000000}` it is 5 s. `null`
 * leaves the default.
 *
 * The two accept different documents in some cases, but never read one document in two ways:
 *
 * - A string such as `"5s"` is accepted here and refused by Go.
 * - A number from 1 to 999999, which is less than 1 ms, is refused here: it was most likely meant as milliseconds.
 * - Unknown fields, `"Namespace"` instead of `"namespace"`, and a document of `null` are refused here; Go ignores the
 *   first and the last, and accepts the second.
 *
 * @returns options to spread into those of a `PostgresLocker`; durations are strings
 * @throws {InvalidConfigError} a field is unknown, or its value can't be used
 */
export function parseConfig(json: unknown): LockerConfig {
  const { namespace, connWaitTimeout } = checked<{ namespace?: number | null; connWaitTimeout?: unknown }>(
    lockerConfig,
    typeof json === "string" ? parsed(json) : json,
  );
  if (typeof json === "string") assertGivenOnce(json);
  const wait = goDuration(connWaitTimeout);
  return {
    ...(typeof namespace === "number" && { namespace }),
    ...(wait !== undefined && { connWaitTimeout: asGiven(connWaitTimeout, wait) }),
  };
}

function parsed(json: string): unknown {
  try {
    return JSON.parse(json);
  } catch {
    throw new InvalidConfigError({ field: "config", got: json, wants: "JSON", secret: true });
  }
}

/**
 * Refuses a field that occurs twice, because Go and JavaScript may use different ones.
 *
 * @param json a document that is known to have only known fields, none of which is an object
 */
function assertGivenOnce(json: string): void {
  // All strings, and after the colon, which makes one a name: a quote stands nowhere else in JSON. A name may be written with escapes.
  const strings = json.match(/"(?:[^"\\]|\\.)*"\s*:?/g) ?? [];
  const names = strings.filter((text) => text.endsWith(":")).map((text) => JSON.parse(text.slice(0, -1)));
  const field = names.find((name, at) => names.indexOf(name) !== at);
  if (field === undefined) return;
  const got = names.filter((name) => name === field).length;
  throw new InvalidConfigError({ field, got, wants: "given once" });
}

/** The duration as it was given if it is a string; a number becomes a string with its unit. */
function asGiven(value: unknown, milliseconds: number): Duration {
  if (milliseconds === 0) return 0;
  return typeof value === "string" ? value : formatDuration(milliseconds);
}

/**
 * Reads the Go package's environment variables: `NAMESPACE` and `CONN_WAIT_TIMEOUT`, with `prefix` in front of each name. A variable
 * that is absent or empty leaves the default.
 *
 * @returns options to spread into those of a `PostgresLocker`
 * @throws {InvalidConfigError} names the variable
 */
export function configFromEnv(env: Readonly<Record<string, string | undefined>>, prefix = ""): LockerConfig {
  const config: { namespace?: number; connWaitTimeout?: Duration } = {};
  const namespaceText = env[`${prefix}NAMESPACE`] ?? "";
  if (namespaceText !== "") {
    const number = /^[+-]?\d+$/.test(namespaceText) ? Number(namespaceText) : Number.NaN;
    if (!isInt32(number)) {
      throw new InvalidConfigError({ field: `${prefix}NAMESPACE`, got: namespaceText, wants: int32Range });
    }
    config.namespace = number;
  }
  const waitText = env[`${prefix}CONN_WAIT_TIMEOUT`] ?? "";
  if (waitText !== "") {
    const wait = goDuration(waitText);
    if (wait === undefined) {
      const wants = 'a duration such as "5s" or "1m30s"';
      throw new InvalidConfigError({ field: `${prefix}CONN_WAIT_TIMEOUT`, got: waitText, wants });
    }
    config.connWaitTimeout = asGiven(waitText, wait);
  }
  return config;
}

const nanosecond = 1e-6;
/** The first duration, in milliseconds, that doesn't fit into Go's int64 of nanoseconds. */
const tooLongForGo = 2 ** 63 * nanosecond;

/**
 * Converts a duration that the Go package would read, a number of nanoseconds or a text, to milliseconds; `undefined` if it isn't one. Go
 * ignores fractions of a nanosecond.
 */
function goDuration(value: unknown): number | undefined {
  const isNumber = typeof value === "number";
  if (isNumber && (!Number.isInteger(value) || (value > 0 && value < 1e6))) return undefined;
  const duration = milliseconds(
    isNumber ? value * nanosecond : typeof value === "string" ? value : undefined,
  );
  if (duration === undefined || Math.abs(duration) >= tooLongForGo) return undefined;
  return Math.abs(duration) < nanosecond ? 0 : duration;
}
