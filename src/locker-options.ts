import type { MeterProvider, TracerProvider } from "@opentelemetry/api";
import { formatDuration, milliseconds } from "./contract/duration.ts";
import { InvalidConfigError } from "./contract/errors.ts";
import type { LockDefaults } from "./contract/lock-defaults.ts";
import { int32Range, isInt32, type LockIdFunction } from "./contract/lock-id.ts";
import type { Duration, Logger } from "./contract/locker.ts";
import { type Check, exactly, having, is, isObject, oneOf, optional } from "./contract/option-checks.ts";
import type { Pool } from "./postgres/driver.ts";
import type { CircuitBreaker } from "./runtime/circuit-breaker.ts";
import { longestTimer } from "./runtime/clock.ts";

/** How a locker reaches its database: exactly one of the three. */
interface Connection {
  /** A node-postgres `Pool`, which stays the caller's. Locks take connections from it while they are held. */
  readonly pool?: Pool;
  /** Where reads go elsewhere: locks live on `write`; `ping()` proves `read` as well. Both stay the caller's. */
  readonly database?: { readonly write: Pool; readonly read?: Pool };
  /** The locker then makes a pool of its own, and ends it on `close()`. */
  readonly connectionString?: string;
}

export interface PostgresLockerOptions extends Connection {
  /** Keeps services apart that share a database: part of the lock id. An int32; default 0. */
  readonly namespace?: number;
  /** Bounds the wait for a connection of the pool. Default (and 0): 5 s. Negative: no bound. */
  readonly connWaitTimeout?: Duration;
  /**
   * What to do where a connection pooler stands before the server. Default `"refuse"`. `"session"` says that it is one
   * that keeps a session for each client.
   */
  readonly pooler?: "refuse" | "session";
  /**
   * `"shared"` (the default): all locks are carried by as few connections of the pool as can be, and what is asked at the same
   * time goes out together. `"dedicated"`: each lock has one to itself, as with the Go package.
   */
  readonly sessions?: "dedicated" | "shared";
  /**
   * With `sessions: "shared"`: so many locks a connection carries before another is taken. Default 1000: the server walks all
   * of a session's locks at the end of each of its statements.
   */
  readonly maxLocksPerSession?: number;
  /**
   * How many connections, beside the pool, callers may wait on inside the server; those on which a lock that was waited for is still
   * held count. Whoever waits beyond that tries about twice a second until there is room. Default 4.
   *
   * One is enough to wait for one lock; each more makes the hand-over of one more lock immediate, and may take one more of the
   * server's `max_connections` for each process.
   */
  readonly maxWaitingSessions?: number;
  /**
   * Who ends a lock whose TTL has passed. `"client"` (the default): its holder stops believing, and nothing expires in the
   * database. `"server"`: the database ends its session, and so frees the lock, whatever has become of the holder. A TTL is
   * then from 1 ms to 2147483647 ms.
   */
  readonly ttlEnforcement?: "client" | "server";
  /**
   * How long after a restart, a crash or a failover of the server nobody is granted a lock. All locks are gone then, but a holder who is
   * cut off doesn't know, and relies on its own for the rest of its TTL: with a grace, the next holder comes after that. A TTL above
   * it is refused with `InvalidTtlError`, and the default TTL is no longer than it.
   *
   * Until it has passed, waits wait, and whoever doesn't wait gets `LockNotAcquiredError` with the reason `"recovering"`. It has to be the
   * same for all lockers of a key. It costs one statement for each session that is opened.
   *
   * From 1 ms to 2147483647 ms. What it doesn't cover is in docs/guarantees.md.
   *
   * @default off
   * @example
   * const locker = new PostgresLocker({ pool, recoveryGrace: "10s" });
   * await locker.withLock("nightly", work, { ttl: "10s", wait: true });
   */
  readonly recoveryGrace?: Duration;
  /** What is taken for an option that a call leaves out: `{ ttl, wait, autoRefresh }`. See {@link LockDefaults}. */
  readonly defaults?: LockDefaults;
  /**
   * Makes the id of a lock: a bigint from -2^63 to 2^63-1, the same for the same arguments, in every process. {@link sha256LockId} is
   * one that nobody can aim at. Lockers that differ in it don't exclude each other, and the Go package has the default.
   *
   * @default `lockId`, which is that of the Go package
   */
  readonly lockId?: LockIdFunction;
  /** Anything with cockatiel's `execute(fn)`, or `createCircuitBreaker()`. Default: none. */
  readonly circuitBreaker?: CircuitBreaker;
  /** Default: nothing is logged. */
  readonly logger?: Logger;
  /** Default: the global one of `@opentelemetry/api`. */
  readonly tracerProvider?: TracerProvider;
  /** Default: the global one of `@opentelemetry/api`. */
  readonly meterProvider?: MeterProvider;
}

export interface MemoryLockerOptions
  extends Pick<
    PostgresLockerOptions,
    "namespace" | "defaults" | "lockId" | "circuitBreaker" | "logger" | "tracerProvider" | "meterProvider"
  > {}

/** The settings that the Go package has, by the names it has for them. */
export interface LockerConfig extends Pick<PostgresLockerOptions, "namespace" | "connWaitTimeout"> {}

const wholeFrom1 = is(
  "a whole number from 1 up",
  (value) => Number.isInteger(value) && (value as number) >= 1,
);

const duration = is('a duration: milliseconds, or a string such as "5s" or "1m30s"', (value) => {
  return milliseconds(value) !== undefined;
});

const pool: Check = (got, path) => {
  const methods = ["connect", "on", "end"];
  if (
    !isObject(got) ||
    methods.some((method) => typeof got[method] !== "function") ||
    typeof got["totalCount"] !== "number" ||
    !isObject(got["options"])
  ) {
    return { path, got, wants: "a node-postgres Pool" };
  }
  // Often from the environment, and so a string, with which the pool itself goes on.
  const { max } = got["options"];
  return typeof max === "number" ? undefined : { path: `${path}.options.max`, got: max, wants: "a number" };
};

const shared = {
  namespace: optional(is(int32Range, isInt32)),
  defaults: optional(
    exactly("an object { ttl, wait, autoRefresh }", {
      // The times are checked where it is known who enforces them.
      ttl: () => undefined,
      wait: () => undefined,
      autoRefresh: optional(is("true or false", (value) => typeof value === "boolean")),
    }),
  ),
  lockId: optional(is("a function", (value) => typeof value === "function")),
  circuitBreaker: optional(having(["execute"], "an object with a method execute(fn)")),
  logger: optional(having(["debug", "info", "warn", "error"], "an object with debug, info, warn and error")),
  tracerProvider: optional(having(["getTracer"], "an OpenTelemetry TracerProvider")),
  meterProvider: optional(having(["getMeter"], "an OpenTelemetry MeterProvider")),
};

const postgresLockerOptions = exactly("an object", {
  ...shared,
  pool: optional(pool),
  database: optional(
    exactly("an object { write, read } of node-postgres Pools", { write: pool, read: optional(pool) }),
  ),
  connectionString: optional(is("a non-empty string", (value) => typeof value === "string" && value !== "")),
  connWaitTimeout: optional(duration),
  sessions: optional(oneOf("dedicated", "shared")),
  maxLocksPerSession: optional(wholeFrom1),
  maxWaitingSessions: optional(wholeFrom1),
  ttlEnforcement: optional(oneOf("client", "server")),
  recoveryGrace: optional(
    is('a duration from 1 ms to 2147483647 ms, such as 30000 or "30s"', (value) => {
      const grace = milliseconds(value);
      return grace !== undefined && grace >= 1 && grace <= longestTimer;
    }),
  ),
  pooler: optional(oneOf("refuse", "session")),
});

const memoryLockerOptions = exactly("an object", shared);

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

/** Of a field that is there twice, Go and JavaScript may take different ones. */
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

/** @throws {InvalidConfigError} */
export function checkPostgresLockerOptions(options: unknown): PostgresLockerOptions {
  const taken = checked<PostgresLockerOptions>(postgresLockerOptions, options);
  const given = (["pool", "database", "connectionString"] as const).filter(
    (field) => taken[field] !== undefined,
  );
  if (given.length === 0) {
    // What was meant, where a variable that was to hold it is not set.
    const [meant = "pool"] = (["connectionString", "database"] as const).filter((field) => field in taken);
    throw new InvalidConfigError({
      field: meant,
      got: undefined,
      wants:
        meant === "pool"
          ? "a node-postgres Pool (or give `database` or `connectionString`)"
          : "given, and not undefined",
    });
  }
  const second = given[1];
  if (second !== undefined) {
    throw new InvalidConfigError({
      field: second,
      got: "given",
      wants: `absent where \`${given[0]}\` is given`,
    });
  }
  return taken;
}

/** @throws {InvalidConfigError} */
export function checkMemoryLockerOptions(options: unknown): MemoryLockerOptions {
  return checked<MemoryLockerOptions>(memoryLockerOptions, options);
}

/** Milliseconds to wait for a connection; `Infinity` where there is no bound. */
export function connWaitMilliseconds(configured: Duration | undefined): number {
  const wait = milliseconds(configured ?? 0) ?? 0;
  return wait === 0 ? 5_000 : wait < 0 ? Number.POSITIVE_INFINITY : Math.min(wait, longestTimer);
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

/** Whose values are no secrets. Under any other name, a misspelt one too, a string may be a password. */
const plainFields: ReadonlySet<string> = new Set([
  "namespace",
  "connWaitTimeout",
  "pooler",
  "ttlEnforcement",
  "recoveryGrace",
  "sessions",
  "maxLocksPerSession",
  "maxWaitingSessions",
  "defaults.autoRefresh",
  "pool.options.max",
  "database.write.options.max",
  "database.read.options.max",
]);

/**
 * A copy of the options, which their caller may go on to change.
 *
 * @throws {InvalidConfigError} of the first thing that is wrong with them
 */
function checked<T>(check: Check, options: unknown): T {
  const fault = check(options, "");
  if (fault === undefined) return { ...(options as T) };
  const { path, got, wants } = fault;
  throw new InvalidConfigError({ field: path || "options", got, wants, secret: !plainFields.has(path) });
}
