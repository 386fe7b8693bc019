import pg from "pg";
import { describe, expect, test } from "vitest";
import {
  configFromEnv,
  InvalidConfigError,
  MemoryLocker,
  PostgresLocker,
  type PostgresLockerOptions,
  parseConfig,
} from "../../src/index.ts";

function message(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    expect(error).toBeInstanceOf(InvalidConfigError);
    return (error as Error).message;
  }
  throw new Error("nothing was thrown");
}

describe("parseConfig", () => {
  test("reads the Go package's names, as text or already parsed", () => {
    const config = { namespace: 7, connWaitTimeout: "5s" };
    expect(parseConfig(config)).toEqual(config);
    expect(parseConfig(JSON.stringify(config))).toEqual(config);
  });

  test("leaves out what is not given", () => {
    expect(parseConfig("{}")).toEqual({});
  });

  test("takes the ends of the int32 range, and a timeout of any sign, as text or in milliseconds", () => {
    for (const config of [
      { namespace: -(2 ** 31), connWaitTimeout: "-1s" },
      { namespace: 2 ** 31 - 1, connWaitTimeout: 0 },
      { namespace: 0, connWaitTimeout: 250 },
    ]) {
      expect(parseConfig(config)).toEqual(config);
    }
  });

  test("names the field, what it got and what it wants", () => {
    expect(
      [
        { nameSpace: 7 },
        { namespace: "7" },
        { namespace: 1.5 },
        { namespace: 2 ** 31 },
        { namespace: -(2 ** 31) - 1 },
        { namespace: null },
        { connWaitTimeout: "5" },
        { connWaitTimeout: "5 parsecs" },
        { connWaitTimeout: Number.NaN },
        { connWaitTimeout: true },
        [],
        null,
        7,
        "[]",
        "not json",
      ].map((config) => message(() => parseConfig(config))),
    ).toMatchInlineSnapshot(`
      [
        "Expected \`nameSpace\` to be absent: there is no such option, got \`7\` (number)",
        "Expected \`namespace\` to be a whole number from -2147483648 to 2147483647, got \`"7"\` (string)",
        "Expected \`namespace\` to be a whole number from -2147483648 to 2147483647, got \`1.5\` (number)",
        "Expected \`namespace\` to be a whole number from -2147483648 to 2147483647, got \`2147483648\` (number)",
        "Expected \`namespace\` to be a whole number from -2147483648 to 2147483647, got \`-2147483649\` (number)",
        "Expected \`namespace\` to be a whole number from -2147483648 to 2147483647, got \`null\`",
        "Expected \`connWaitTimeout\` to be a duration: milliseconds, or a string such as "5s" or "1m30s", got \`"5"\` (string)",
        "Expected \`connWaitTimeout\` to be a duration: milliseconds, or a string such as "5s" or "1m30s", got \`"5 parsecs"\` (string)",
        "Expected \`connWaitTimeout\` to be a duration: milliseconds, or a string such as "5s" or "1m30s", got \`NaN\` (number)",
        "Expected \`connWaitTimeout\` to be a duration: milliseconds, or a string such as "5s" or "1m30s", got \`true\` (boolean)",
        "Expected \`options\` to be an object, got an array",
        "Expected \`options\` to be an object, got \`null\`",
        "Expected \`options\` to be an object, got \`7\` (number)",
        "Expected \`options\` to be an object, got an array",
        "Expected \`config\` to be JSON, got a string of 8 characters",
      ]
    `);
  });
});

describe("configFromEnv", () => {
  test("reads the Go package's variables, after the prefix", () => {
    const env = { APP_NAMESPACE: "-7", APP_CONN_WAIT_TIMEOUT: "1m30s", NAMESPACE: "9" };
    expect(configFromEnv(env, "APP_")).toEqual({ namespace: -7, connWaitTimeout: "1m30s" });
    expect(configFromEnv(env)).toEqual({ namespace: 9 });
  });

  test("leaves the default where a variable is absent or empty", () => {
    expect(configFromEnv({ NAMESPACE: "", CONN_WAIT_TIMEOUT: undefined })).toEqual({});
  });

  test("names the variable, what it got and what it wants", () => {
    expect(
      [
        { L_NAMESPACE: "seven" },
        { L_NAMESPACE: "1.5" },
        { L_NAMESPACE: "0x7" },
        { L_NAMESPACE: " " },
        { L_NAMESPACE: "2147483648" },
        { L_CONN_WAIT_TIMEOUT: "5" },
        { L_CONN_WAIT_TIMEOUT: "soon" },
      ].map((env) => message(() => configFromEnv(env, "L_"))),
    ).toMatchInlineSnapshot(`
      [
        "Expected \`L_NAMESPACE\` to be a whole number from -2147483648 to 2147483647, got \`"seven"\` (string)",
        "Expected \`L_NAMESPACE\` to be a whole number from -2147483648 to 2147483647, got \`"1.5"\` (string)",
        "Expected \`L_NAMESPACE\` to be a whole number from -2147483648 to 2147483647, got \`"0x7"\` (string)",
        "Expected \`L_NAMESPACE\` to be a whole number from -2147483648 to 2147483647, got \`" "\` (string)",
        "Expected \`L_NAMESPACE\` to be a whole number from -2147483648 to 2147483647, got \`"2147483648"\` (string)",
        "Expected \`L_CONN_WAIT_TIMEOUT\` to be a duration such as "5s" or "1m30s", got \`"5"\` (string)",
        "Expected \`L_CONN_WAIT_TIMEOUT\` to be a duration such as "5s" or "1m30s", got \`"soon"\` (string)",
      ]
    `);
  });
});

describe("the options of a locker", () => {
  test("name the field, what it got and what it wants", () => {
    const pool = poolLike();
    expect(
      [
        undefined,
        null,
        {},
        { pool: undefined },
        { pool: {} },
        { pool, database: { write: pool } },
        { pool, connectionString: "postgres://h/d" },
        { connectionString: "" },
        { connectionString: 5 },
        { database: {} },
        { database: { write: pool, raed: pool } },
        { pool, namespace: "7" },
        { pool, connWaitTimeout: "5" },
        { pool, pooler: "transaction" },
        { pool, circuitBreaker: {} },
        { pool, logger: { warn() {} } },
        { pool, tracerProvider: {} },
        { pool, meterProvider: null },
        { pool, tll: 5 },
      ].map((options) => message(() => new PostgresLocker(options as never))),
    ).toMatchInlineSnapshot(`
      [
        "Expected \`options\` to be an object, got \`undefined\`",
        "Expected \`options\` to be an object, got \`null\`",
        "Expected \`pool\` to be a node-postgres Pool (or give \`database\` or \`connectionString\`), got \`undefined\`",
        "Expected \`pool\` to be a node-postgres Pool (or give \`database\` or \`connectionString\`), got \`undefined\`",
        "Expected \`pool\` to be a node-postgres Pool, got an object",
        "Expected \`database\` to be absent where \`pool\` is given, got \`"given"\` (string)",
        "Expected \`connectionString\` to be absent where \`pool\` is given, got \`"given"\` (string)",
        "Expected \`connectionString\` to be a non-empty string, got \`""\` (string)",
        "Expected \`connectionString\` to be a non-empty string, got \`5\` (number)",
        "Expected \`database.write\` to be a node-postgres Pool, got \`undefined\`",
        "Expected \`database.raed\` to be absent: there is no such option, got an object",
        "Expected \`namespace\` to be a whole number from -2147483648 to 2147483647, got \`"7"\` (string)",
        "Expected \`connWaitTimeout\` to be a duration: milliseconds, or a string such as "5s" or "1m30s", got \`"5"\` (string)",
        "Expected \`pooler\` to be "refuse" or "session", got \`"transaction"\` (string)",
        "Expected \`circuitBreaker\` to be an object with a method execute(fn), got an object",
        "Expected \`logger\` to be an object with debug, info, warn and error, got an object",
        "Expected \`tracerProvider\` to be an OpenTelemetry TracerProvider, got an object",
        "Expected \`meterProvider\` to be an OpenTelemetry MeterProvider, got \`null\`",
        "Expected \`tll\` to be absent: there is no such option, got \`5\` (number)",
      ]
    `);
  });

  test("are the same of a MemoryLocker, but for the database", () => {
    expect(message(() => new MemoryLocker({ pool: poolLike() } as never))).toMatchInlineSnapshot(
      `"Expected \`pool\` to be absent: there is no such option, got an object"`,
    );
    expect(message(() => new MemoryLocker({ namespace: 2 ** 31 }))).toMatchInlineSnapshot(
      `"Expected \`namespace\` to be a whole number from -2147483648 to 2147483647, got \`2147483648\` (number)"`,
    );
  });
});

test("no message shows a connection string or a password", () => {
  const url = "postgres://app:s3cret@db/app";
  const pool = poolLike();
  for (const work of [
    () => new PostgresLocker(url as never),
    () => new PostgresLocker({ pool: url } as never),
    () => new PostgresLocker({ database: url } as never),
    () => new PostgresLocker({ database: { write: url } } as never),
    () => new PostgresLocker({ database: { write: pool, read: url } } as never),
    () => new PostgresLocker({ database: { write: pool, password: "s3cret" } } as never),
    () => new PostgresLocker({ pool, connectionString: url } as never),
    () => new PostgresLocker({ connectionstring: url } as never),
    () => new PostgresLocker({ connectionString: [url] } as never),
    () => new PostgresLocker({ pool, password: "s3cret" } as never),
    () => new PostgresLocker({ pool, circuitBreaker: url } as never),
    () => new PostgresLocker({ pool, namespace: url } as never),
    () => new PostgresLocker({ pool, connWaitTimeout: url } as never),
    () => parseConfig(url),
    () => parseConfig({ url }),
    () => parseConfig({ password: "s3cret" }),
    () => configFromEnv({ NAMESPACE: url }),
  ]) {
    expect(message(work), work.toString()).not.toContain("s3cret");
  }
});

function poolLike(): unknown {
  return { connect() {}, on() {}, async end() {}, totalCount: 0, idleCount: 0, options: { max: 1 } };
}

test.each<readonly [object, string]>([
  [{ sessions: "many" }, 'Expected `sessions` to be "dedicated" or "shared", got `"many"` (string)'],
  [{ ttlEnforcement: "both" }, 'Expected `ttlEnforcement` to be "client" or "server", got `"both"` (string)'],
  ...[0, -1, Number.POSITIVE_INFINITY, 2 ** 31, Number.NaN].map(
    (recoveryGrace) =>
      [
        { recoveryGrace },
        `Expected \`recoveryGrace\` to be a duration from 1 ms to 2147483647 ms, such as 30000 or "30s", got \`${recoveryGrace}\` (number)`,
      ] as const,
  ),
  [
    { recoveryGrace: "5" },
    'Expected `recoveryGrace` to be a duration from 1 ms to 2147483647 ms, such as 30000 or "30s", got `"5"` (string)',
  ],
  [
    { maxLocksPerSession: 0 },
    "Expected `maxLocksPerSession` to be a whole number from 1 up, got `0` (number)",
  ],
  [
    { maxLocksPerSession: 1.5 },
    "Expected `maxLocksPerSession` to be a whole number from 1 up, got `1.5` (number)",
  ],
])("%o is refused by name", (options, message) => {
  const pool = new pg.Pool();
  expect(() => new PostgresLocker({ pool, ...options } as PostgresLockerOptions)).toThrow(message);
});

test("a connection string that is undefined is what is named", () => {
  expect(
    () => new PostgresLocker({ connectionString: undefined } as unknown as PostgresLockerOptions),
  ).toThrow("Expected `connectionString` to be given, and not undefined, got `undefined`");
});
