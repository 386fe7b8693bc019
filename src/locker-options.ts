import type { MeterProvider, TracerProvider } from "@opentelemetry/api";
import * as z from "zod";
import { milliseconds } from "./contract/duration.ts";
import { InvalidConfigError } from "./contract/errors.ts";
import { int32Range, isInt32 } from "./contract/lock-id.ts";
import type { Duration, Logger } from "./contract/locker.ts";
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
    "namespace" | "circuitBreaker" | "logger" | "tracerProvider" | "meterProvider"
  > {}

/** The settings that the Go package has, by the names it has for them. */
export interface LockerConfig extends Pick<PostgresLockerOptions, "namespace" | "connWaitTimeout"> {}

const durationText = 'a duration: milliseconds, or a string such as "5s" or "1m30s"';

const namespace = z.custom<number>(isInt32, { error: int32Range });
const duration = z.custom<Duration>((value) => milliseconds(value) !== undefined, { error: durationText });
const having = <T>(methods: readonly string[], error: string) =>
  z.custom<T>(
    (value) =>
      typeof value === "object" &&
      value !== null &&
      methods.every((method) => typeof (value as Record<string, unknown>)[method] === "function"),
    { error },
  );
const pool = having<Pool>(["connect", "on", "end"], "a node-postgres Pool").refine(
  (value) => typeof value.totalCount === "number" && typeof value.options?.max === "number",
  { error: "a node-postgres Pool" },
);

const shared = {
  namespace: namespace.optional(),
  circuitBreaker: having<CircuitBreaker>(["execute"], "an object with a method execute(fn)").optional(),
  logger: having<Logger>(
    ["debug", "info", "warn", "error"],
    "an object with debug, info, warn and error",
  ).optional(),
  tracerProvider: having<TracerProvider>(["getTracer"], "an OpenTelemetry TracerProvider").optional(),
  meterProvider: having<MeterProvider>(["getMeter"], "an OpenTelemetry MeterProvider").optional(),
};

const lockerConfig = z.strictObject(
  { namespace: namespace.optional(), connWaitTimeout: duration.optional() },
  anObject(),
);

const postgresLockerOptions = z.strictObject(
  {
    ...shared,
    pool: pool.optional(),
    database: z
      .strictObject(
        { write: pool, read: pool.optional() },
        { error: "an object { write, read } of node-postgres Pools" },
      )
      .optional(),
    connectionString: z
      .string({ error: "a non-empty string" })
      .min(1, { error: "a non-empty string" })
      .optional(),
    connWaitTimeout: duration.optional(),
    sessions: z.enum(["dedicated", "shared"], { error: '"dedicated" or "shared"' }).optional(),
    maxLocksPerSession: z
      .custom<number>((value) => Number.isInteger(value) && (value as number) >= 1, {
        error: "a whole number from 1 up",
      })
      .optional(),
    maxWaitingSessions: z
      .custom<number>((value) => Number.isInteger(value) && (value as number) >= 1, {
        error: "a whole number from 1 up",
      })
      .optional(),
    ttlEnforcement: z.enum(["client", "server"], { error: '"client" or "server"' }).optional(),
    recoveryGrace: z
      .custom<Duration>((value) => isGrace(milliseconds(value)), {
        error: 'a duration from 1 ms to 2147483647 ms, such as 30000 or "30s"',
      })
      .optional(),
    pooler: z.enum(["refuse", "session"], { error: '"refuse" or "session"' }).optional(),
  },
  anObject(),
);

const memoryLockerOptions = z.strictObject(shared, anObject());

/**
 * Reads the Go package's JSON configuration, as text or already parsed: `{"namespace": 7, "connWaitTimeout": "5s"}`.
 * A number is milliseconds here, where Go's own encoding writes nanoseconds.
 *
 * @returns options to spread into those of a `PostgresLocker`
 * @throws {InvalidConfigError} an unknown field, or a value that its field can't take
 */
export function parseConfig(json: unknown): LockerConfig {
  if (typeof json !== "string") return check(lockerConfig, json) as LockerConfig;
  let parsed: unknown;
  try {
    parsed = JSON.parse(json);
  } catch {
    throw new InvalidConfigError({ field: "config", got: json, wants: "JSON", secret: true });
  }
  return check(lockerConfig, parsed) as LockerConfig;
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
    if (milliseconds(waitText) === undefined) {
      const wants = 'a duration such as "5s" or "1m30s"';
      throw new InvalidConfigError({ field: `${prefix}CONN_WAIT_TIMEOUT`, got: waitText, wants });
    }
    config.connWaitTimeout = waitText;
  }
  return config;
}

/** @throws {InvalidConfigError} */
export function checkPostgresLockerOptions(options: unknown): PostgresLockerOptions {
  const checked = check(postgresLockerOptions, options);
  const given = (["pool", "database", "connectionString"] as const).filter(
    (field) => checked[field] !== undefined,
  );
  if (given.length === 0) {
    // What was meant, where a variable that was to hold it is not set.
    const [meant = "pool"] = (["connectionString", "database"] as const).filter((field) => field in checked);
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
  return checked as PostgresLockerOptions;
}

/** @throws {InvalidConfigError} */
export function checkMemoryLockerOptions(options: unknown): MemoryLockerOptions {
  return check(memoryLockerOptions, options) as MemoryLockerOptions;
}

/** Milliseconds to wait for a connection; `Infinity` where there is no bound. */
export function connWaitMilliseconds(configured: Duration | undefined): number {
  const wait = milliseconds(configured ?? 0) ?? 0;
  return wait === 0 ? 5_000 : wait < 0 ? Number.POSITIVE_INFINITY : Math.min(wait, longestTimer);
}

/** In milliseconds. */
function isGrace(grace: number | undefined): boolean {
  return grace !== undefined && grace >= 1 && grace <= longestTimer;
}

function anObject(): { error: (issue: { code?: string | undefined }) => string | undefined } {
  return { error: (issue) => (issue.code === "invalid_type" ? "an object" : undefined) };
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
]);

function check<T extends z.ZodType>(schema: T, value: unknown): z.output<T> {
  const result = schema.safeParse(value);
  if (result.success) return result.data;
  const [issue] = result.error.issues;
  const path = (issue?.path ?? []).map(String);
  const unknownField = issue?.code === "unrecognized_keys" ? issue.keys[0] : undefined;
  if (unknownField !== undefined) path.push(unknownField);
  let got: unknown = value;
  for (const step of path) got = (got as Record<string, unknown> | undefined)?.[step];
  const wants = unknownField === undefined ? (issue?.message ?? "valid") : "absent: there is no such option";
  const field = path.join(".") || "options";
  throw new InvalidConfigError({ field, got, wants, secret: !plainFields.has(field) });
}
