import { milliseconds } from "./contract/duration.ts";
import { InvalidConfigError } from "./contract/errors.ts";
import { int32Range, isInt32 } from "./contract/lock-id.ts";
import type { Duration } from "./contract/locker.ts";
import {
  type Check,
  exactly,
  having,
  is,
  oneOf,
  optional,
  poolCheck,
  trueOrFalse,
} from "./contract/option-checks.ts";
import type { MemoryLockerOptions, PostgresLockerOptions } from "./locker-options.ts";
import { isPostgresJs } from "./postgres/postgres-js.ts";
import { longestTimer } from "./runtime/clock.ts";

const wholeFrom1 = is(
  "a whole number from 1 up",
  (value) => Number.isInteger(value) && (value as number) >= 1,
);

const duration = is('a duration: milliseconds, or a string such as "5s" or "1m30s"', (value) => {
  return milliseconds(value) !== undefined;
});

/** Whether the driver can read a connection string: it is a URL, or the path of a socket's folder and a database. */
function isConnectionString(value: unknown): boolean {
  if (typeof value !== "string") return false;
  // As the driver does, tries it again with a host if it has none.
  const isUrl = URL.canParse(value) || URL.canParse(value.replace("@/", "@host/"));
  return value.startsWith("/") || (/^(postgres|postgresql|socket):/.test(value) && isUrl);
}

const sql: Check = (got, path) => {
  if (!isPostgresJs(got)) return { path, got, wants: "the `sql` that postgres.js's `postgres(…)` returns" };
  const { max } = got.options;
  return wholeFrom1(max, `${path}.options.max`);
};

const aPool = "a node-postgres Pool (or give `database`, `connectionString` or `sql`)";

/** Checks the option `pool`. Its error names the other options, because somebody may pass a connection string or an `sql` instead. */
const pool: Check = (got, path) => {
  const fault = poolCheck(got, path);
  return fault?.path === path ? { ...fault, wants: aPool } : fault;
};

const shared = {
  namespace: optional(is(int32Range, isInt32)),
  ttlEnforcement: optional(oneOf("client", "server")),
  defaults: optional(
    exactly("an object { ttl, wait, autoRefresh }", {
      // `ttl` and `wait` are checked later, when it is known who enforces them.
      ttl: () => undefined,
      wait: () => undefined,
      autoRefresh: optional(trueOrFalse),
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
    exactly("an object { write, read } of node-postgres Pools", {
      write: poolCheck,
      read: optional(poolCheck),
    }),
  ),
  connectionString: optional(
    is(
      'a URL such as "postgres://user:password@host:5432/database", in which a password\'s "#", "/" and "@" are "%23", "%2F" and "%40"',
      isConnectionString,
    ),
  ),
  sql: optional(sql),
  connWaitTimeout: optional(duration),
  sessions: optional(oneOf("dedicated", "shared")),
  maxLocksPerSession: optional(wholeFrom1),
  tellKeys: optional(trueOrFalse),
  maxWaitingSessions: optional(wholeFrom1),
  recoveryGrace: optional(
    is('a duration from 1 ms to 2147483647 ms, such as 30000 or "30s"', (value) => {
      const grace = milliseconds(value);
      return grace !== undefined && grace >= 1 && grace <= longestTimer;
    }),
  ),
  pooler: optional(oneOf("refuse", "session")),
});

const memoryLockerOptions = exactly("an object", {
  ...shared,
  transaction: optional(
    is("a function that makes the client of a transaction", (value) => typeof value === "function"),
  ),
});

/** Checks and copies the options of a `PostgresLocker`. @throws {InvalidConfigError} */
export function checkPostgresLockerOptions(options: unknown): PostgresLockerOptions {
  const taken = checked<PostgresLockerOptions>(postgresLockerOptions, options);
  const given = (["pool", "database", "connectionString", "sql"] as const).filter(
    (field) => taken[field] !== undefined,
  );
  if (given.length === 0) {
    // The field that was meant, if it is there but `undefined`, because a variable is not set.
    const [meant = "pool"] = (["connectionString", "database", "sql"] as const).filter(
      (field) => field in taken,
    );
    throw new InvalidConfigError({
      field: meant,
      got: undefined,
      wants: meant === "pool" ? aPool : "given, and not undefined",
    });
  }
  const second = given[1];
  if (second !== undefined) {
    throw new InvalidConfigError({
      field: second,
      got: taken[second],
      wants: `absent if \`${given[0]}\` is given`,
      secret: true,
    });
  }
  return taken;
}

/** Checks and copies the options of a `MemoryLocker`. @throws {InvalidConfigError} */
export function checkMemoryLockerOptions(options: unknown): MemoryLockerOptions {
  return checked<MemoryLockerOptions>(memoryLockerOptions, options);
}

/** The option `connWaitTimeout` in milliseconds; `Infinity` if there is no bound. */
export function connWaitMilliseconds(configured: Duration | undefined): number {
  const wait = milliseconds(configured ?? 0) ?? 0;
  return wait === 0 ? 5_000 : wait < 0 ? Number.POSITIVE_INFINITY : Math.min(wait, longestTimer);
}

/** Fields whose values may be shown. Under any other name, even a misspelt one, a string may be a password. */
const plainFields: ReadonlySet<string> = new Set([
  "namespace",
  "connWaitTimeout",
  "pooler",
  "ttlEnforcement",
  "recoveryGrace",
  "sessions",
  "maxLocksPerSession",
  "tellKeys",
  "maxWaitingSessions",
  "defaults.autoRefresh",
  "pool.options.max",
  "sql.options.max",
  "database.write.options.max",
  "database.read.options.max",
]);

/**
 * Checks options and copies them, because the caller may change its object later.
 *
 * @throws {InvalidConfigError} names the first thing that is wrong
 */
export function checked<T>(check: Check, options: unknown): T {
  const fault = check(options, "");
  if (fault === undefined) return { ...(options as T) };
  const { path, got, wants } = fault;
  throw new InvalidConfigError({ field: path || "options", got, wants, secret: !plainFields.has(path) });
}
