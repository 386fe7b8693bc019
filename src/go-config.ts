import { formatDuration, milliseconds } from "./contract/duration.ts";
import { InvalidConfigError } from "./contract/errors.ts";
import { int32Range, isInt32 } from "./contract/lock-id.ts";
import type { Duration } from "./contract/locker.ts";
import { type Check, exactly, is, optional } from "./contract/option-checks.ts";
import type { PostgresLockerOptions } from "./locker-options.ts";
import { checked } from "./option-rules.ts";

/** The settings that the Go package has, by the names it has for them. */
export interface LockerConfig extends Pick<PostgresLockerOptions, "namespace" | "connWaitTimeout"> {}

/** Go's `null` leaves the default, as if the field were not there. */
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
 * Reads the Go package's JSON configuration, as text or already parsed. `connWaitTimeout` is what Go's own encoding writes, a
 * number of nanoseconds, so that one document means the same to both: `{"namespace": 7, "connWaitTimeout": 5000000000}` is
 * 5 s. `null` leaves the default.
 *
 * Some documents are taken by one of the two only, and mean nothing else to the other:
 *
 * - A string, `"5s"`, is taken here and refused by Go.
 * - A number from 1 to 999999, less than 1 ms, is refused here: it was most likely meant as milliseconds.
 * - Unknown fields, `"Namespace"` for `"namespace"` and a document of `null` are refused here; Go passes over the
 *   first and the last, and takes the second.
 *
 * @returns options to spread into those of a `PostgresLocker`; a duration as a string
 * @throws {InvalidConfigError} an unknown field, or a value that its field can't take
 */
export function parseConfig(json: unknown): LockerConfig {
  const parsed = typeof json === "string" ? parseOnce(json, ["namespace", "connWaitTimeout"]) : json;
  const { namespace, connWaitTimeout } = checked<{ namespace?: number | null; connWaitTimeout?: unknown }>(
    lockerConfig,
    parsed,
  );
  const wait = goDuration(connWaitTimeout);
  return {
    ...(typeof namespace === "number" && { namespace }),
    ...(wait !== undefined && { connWaitTimeout: asGiven(connWaitTimeout, wait) }),
  };
}

/** Refuses a field that is there twice: Go and JavaScript may take different ones. */
function parseOnce(json: string, fields: readonly string[]): unknown {
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch {
    throw new InvalidConfigError({ field: "config", got: json, wants: "JSON", secret: true });
  }
  for (const field of fields) {
    const times = json.split(new RegExp(`"${field}"\\s*:`)).length - 1;
    if (times > 1) throw new InvalidConfigError({ field, got: times, wants: "given once" });
  }
  return parsed;
}

/** A duration in a form that says its unit, if it came as a number. */
function asGiven(value: unknown, milliseconds: number): Duration {
  if (milliseconds === 0) return 0;
  return typeof value === "string" ? value : formatDuration(milliseconds);
}

/**
 * Reads the Go package's environment variables, `NAMESPACE` and `CONN_WAIT_TIMEOUT`, each after `prefix`. A variable that
 * is absent or empty leaves the default.
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
/** Milliseconds: what Go's int64 of nanoseconds does not hold. */
const tooLongForGo = 2 ** 63 * nanosecond;

/**
 * A duration as the Go package reads it, a number of nanoseconds or a text: milliseconds, or `undefined` for what is none.
 * Less than a nanosecond is nothing to Go.
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
