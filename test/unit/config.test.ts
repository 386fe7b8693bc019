import { readFile } from "node:fs/promises";
import pg from "pg";
import { describe, expect, test } from "vitest";
import { milliseconds } from "../../src/contract/duration.ts";
import {
  configFromEnv,
  InvalidConfigError,
  type LockerConfig,
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

  test("takes the ends of the int32 range, and a timeout of any sign", () => {
    for (const config of [
      { namespace: -(2 ** 31), connWaitTimeout: "-1s" },
      { namespace: 2 ** 31 - 1, connWaitTimeout: 0 },
    ]) {
      expect(parseConfig(config)).toEqual(config);
    }
  });

  test("reads a number as nanoseconds, and says its unit", () => {
    expect(parseConfig({ connWaitTimeout: 5_000_000_000 })).toEqual({ connWaitTimeout: "5s" });
    expect(parseConfig('{"connWaitTimeout":1500000}')).toEqual({ connWaitTimeout: "1.5ms" });
    expect(parseConfig({ connWaitTimeout: -1 })).toEqual({ connWaitTimeout: "-1ns" });
    expect(parseConfig(parseConfig({ connWaitTimeout: 9e10 }))).toEqual({ connWaitTimeout: "1m30s" });
  });

  test("reads null as Go does: it leaves the default", () => {
    expect(parseConfig({ namespace: null, connWaitTimeout: null })).toEqual({});
  });

  test("names the field, what it got and what it wants", () => {
    expect(
      [
        { nameSpace: 7 },
        { namespace: "7" },
        { namespace: 1.5 },
        { namespace: 2 ** 31 },
        { namespace: -(2 ** 31) - 1 },
        { Namespace: 7 },
        { connWaitTimeout: "5" },
        { connWaitTimeout: "5 parsecs" },
        { connWaitTimeout: Number.NaN },
        { connWaitTimeout: true },
        { connWaitTimeout: 5_000 },
        { connWaitTimeout: 1_000_000.5 },
        '{"namespace":7,"namespace":null}',
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
        "Expected \`Namespace\` to be absent: there is no such option, got \`7\` (number)",
        "Expected \`connWaitTimeout\` to be nanoseconds, as Go writes a duration (1000000 is 1 ms, the least), or a string such as "5s" or "1m30s", got \`"5"\` (string)",
        "Expected \`connWaitTimeout\` to be nanoseconds, as Go writes a duration (1000000 is 1 ms, the least), or a string such as "5s" or "1m30s", got \`"5 parsecs"\` (string)",
        "Expected \`connWaitTimeout\` to be nanoseconds, as Go writes a duration (1000000 is 1 ms, the least), or a string such as "5s" or "1m30s", got \`NaN\` (number)",
        "Expected \`connWaitTimeout\` to be nanoseconds, as Go writes a duration (1000000 is 1 ms, the least), or a string such as "5s" or "1m30s", got \`true\` (boolean)",
        "Expected \`connWaitTimeout\` to be nanoseconds, as Go writes a duration (1000000 is 1 ms, the least), or a string such as "5s" or "1m30s", got \`5000\` (number)",
        "Expected \`connWaitTimeout\` to be nanoseconds, as Go writes a duration (1000000 is 1 ms, the least), or a string such as "5s" or "1m30s", got \`1000000.5\` (number)",
        "Expected \`namespace\` to be given once, got \`2\` (number)",
        "Expected \`options\` to be an object, got an array",
        "Expected \`options\` to be an object, got \`null\`",
        "Expected \`options\` to be an object, got \`7\` (number)",
        "Expected \`options\` to be an object, got an array",
        "Expected \`config\` to be JSON, got a string of 8 characters",
      ]
    `);
  });
});

describe("parseConfig of a text", () => {
  test.each([
    ['{"namespace":7,"namespace":7}', "`namespace` to be given once, got `2`"],
    ['{"namespace":7,"\\u006eamespace":null}', "`namespace` to be given once, got `2`"],
    ['{"namespace" : 1,"connWaitTimeout":0,"\\u006Eamespace"\n:2,"namespace":3}', "once, got `3`"],
    ['{"connWaitTimeout":{"a":[1]},"connWaitTimeout":"5s"}', "`connWaitTimeout` to be given once"],
    ['{"nested":{"namespace":1},"namespace":2}', "`nested` to be absent"],
    ['{"namespace":{"namespace":1}}', "`namespace` to be a whole number"],
    ['{"namespace":1,"namespace\\u0000":2}', "to be absent"],
  ])("refuses what has two meanings, or an object within: %s", (text, because) => {
    expect(message(() => parseConfig(text))).toContain(because);
  });

  test("reads a name with an escape", () => {
    expect(parseConfig('{"\\u006eamespace":7,"connWaitTimeout":"5\\u0073"}')).toEqual({
      namespace: 7,
      connWaitTimeout: "5s",
    });
  });
});

/** Documents and variables, and how Go 1.26 reads them: encoding/json, strconv.ParseInt, time.ParseDuration. */
const go = JSON.parse(await readFile(new URL("../vectors/settings.json", import.meta.url), "utf8")) as {
  documents: Array<{ document: string; refused?: true; namespace?: number; nanoseconds?: number }>;
  namespaces: Array<{ text: string; refused?: true; value?: number }>;
  waits: Array<{ text: string; refused?: true; value?: number }>;
};

describe("a setting means the same as in Go, or is refused by name", () => {
  const read = ({ namespace = 0, connWaitTimeout = 0 }: LockerConfig) => ({
    namespace: namespace + 0,
    milliseconds: milliseconds(connWaitTimeout),
  });
  const inGo = (namespace = 0, nanoseconds = 0) => ({
    namespace,
    milliseconds: expect.closeTo(nanoseconds / 1e6, 3),
  });
  const refusal = (work: () => LockerConfig): unknown => {
    try {
      return read(work());
    } catch (error) {
      expect(error).toBeInstanceOf(InvalidConfigError);
      return "refused";
    }
  };

  test.each(go.documents)("the document $document", ({ document, refused, namespace, nanoseconds }) => {
    const here = refusal(() => parseConfig(document));
    if (here === "refused") return;
    // What only Go refuses harms nobody, because its process does not start.
    if (refused) expect(document).toBe('{"connWaitTimeout":"5s"}');
    else expect(here).toEqual(inGo(namespace, nanoseconds));
  });

  test.each(go.namespaces)("the variable NAMESPACE=$text", ({ text, refused, value }) => {
    expect(refusal(() => configFromEnv({ NAMESPACE: text }))).toEqual(refused ? "refused" : inGo(value));
  });

  test.each(go.waits)("the variable CONN_WAIT_TIMEOUT=$text", ({ text, refused, value }) => {
    expect(refusal(() => configFromEnv({ CONN_WAIT_TIMEOUT: text }))).toEqual(
      refused ? "refused" : inGo(0, value),
    );
  });

  test("most documents are taken by both", () => {
    const taken = go.documents.filter(({ document }) => refusal(() => parseConfig(document)) !== "refused");
    expect(taken.length).toBeGreaterThan(15);
  });
});

describe("configFromEnv", () => {
  test("reads the Go package's variables, after the prefix", () => {
    const env = { APP_NAMESPACE: "-7", APP_CONN_WAIT_TIMEOUT: "1m30s", NAMESPACE: "9" };
    expect(configFromEnv(env, "APP_")).toEqual({ namespace: -7, connWaitTimeout: "1m30s" });
    expect(configFromEnv(env)).toEqual({ namespace: 9 });
  });

  test("leaves the default if a variable is absent or empty", () => {
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
        { pool: new URL("postgres://h/d") },
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
        "Expected \`pool\` to be a node-postgres Pool (or give \`database\`, \`connectionString\` or \`sql\`), got \`undefined\`",
        "Expected \`pool\` to be a node-postgres Pool (or give \`database\`, \`connectionString\` or \`sql\`), got \`undefined\`",
        "Expected \`pool\` to be a node-postgres Pool (or give \`database\`, \`connectionString\` or \`sql\`), got an object",
        "Expected \`pool\` to be a node-postgres Pool (or give \`database\`, \`connectionString\` or \`sql\`), got an object (URL)",
        "Expected \`database\` to be absent if \`pool\` is given, got an object",
        "Expected \`connectionString\` to be absent if \`pool\` is given, got a string of 14 characters",
        "Expected \`connectionString\` to be a URL such as "postgres://user:password@host:5432/database", in which a password's "#", "/" and "@" are "%23", "%2F" and "%40", got \`""\` (string)",
        "Expected \`connectionString\` to be a URL such as "postgres://user:password@host:5432/database", in which a password's "#", "/" and "@" are "%23", "%2F" and "%40", got \`5\` (number)",
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

  test("are the same for a MemoryLocker, except for the database", () => {
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

test("a pool whose `max` is a string is refused by the name of that field", () => {
  const pool = new pg.Pool({ max: "10" as unknown as number });
  expect(message(() => new PostgresLocker({ pool }))).toBe(
    'Expected `pool.options.max` to be a number, got `"10"` (string)',
  );
  expect(message(() => new PostgresLocker({ database: { write: new pg.Pool(), read: pool } }))).toBe(
    'Expected `database.read.options.max` to be a number, got `"10"` (string)',
  );
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

test("an undefined connection string is refused by its name", () => {
  expect(
    () => new PostgresLocker({ connectionString: undefined } as unknown as PostgresLockerOptions),
  ).toThrow("Expected `connectionString` to be given, and not undefined, got `undefined`");
});
