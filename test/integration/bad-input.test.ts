import { describe, expect, test } from "vitest";
import {
  type AcquireOptions,
  DatabaseError,
  EmptyKeyError,
  InvalidConfigError,
  InvalidKeyError,
  InvalidTtlError,
  type Lock,
  LockerClosedError,
  LockNotHeldError,
  lockId,
  PostgresLocker,
  type PostgresLockerOptions,
} from "../../src/index.ts";
import {
  advisoryLocks,
  createOpenPool,
  createPool,
  createRole,
  databaseUrl,
  holdersOf,
  uniqueKey,
  urlWith,
} from "../support/database.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

const pool = createPool({ max: 2 });
const locker = new PostgresLocker({ pool });
const reason = new Error("the caller left");
// biome-ignore lint/suspicious/noExplicitAny: what is given here is wrong on purpose
type Wrong = any;

type Row = readonly [
  name: string,
  call: () => unknown,
  // biome-ignore lint/suspicious/noExplicitAny: any error class
  error: (new (...args: any[]) => Error) | Error,
  message: string | RegExp,
];

const acquire = (key: Wrong, options?: Wrong) => () => locker.acquire(key, options as AcquireOptions);
const ttl = (wrong: Wrong) => acquire(uniqueKey(), { ttl: wrong });
const made = (options: Wrong) => () => new PostgresLocker(options as PostgresLockerOptions);
const ttlSays = (got: string) =>
  `Expected \`ttl\` to be a duration of at least 1 ms, such as 30000 or "30s", got ${got}`;
const keySays = (got: string) =>
  `Expected \`key\` to be a string without lone surrogates, or a Uint8Array, got ${got}`;
const namespaceSays = (got: string) =>
  `Expected \`namespace\` to be a whole number from -2147483648 to 2147483647, got ${got}`;

/** Returns a lock whose locker has been closed. */
async function orphan(): Promise<Lock> {
  await using closing = new PostgresLocker({ pool });
  return await closing.acquire(uniqueKey());
}

async function held(work: (lock: Lock) => Promise<unknown>): Promise<void> {
  await using lock = await locker.acquire(uniqueKey());
  try {
    await work(lock);
  } finally {
    expect(lock.held).toBe(true);
  }
}

async function onUrl(connectionString: string, method: "acquire" | "ping" = "acquire"): Promise<void> {
  await using other = new PostgresLocker({ connectionString });
  await (method === "ping" ? other.ping() : other.acquire(uniqueKey()));
}

async function closed(work: (closed: PostgresLocker) => Promise<unknown>): Promise<void> {
  const other = new PostgresLocker({ pool });
  await other.close();
  await work(other);
}

async function withWrongPassword(): Promise<void> {
  await using role = await createRole({ asksPassword: true });
  await onUrl(urlWith({ user: role.name, password: "wrong" }));
}

const rows: Row[] = [
  [
    "an empty key",
    acquire(""),
    EmptyKeyError,
    "Expected `key` to have at least one character, got an empty string",
  ],
  ["an empty key to tryAcquire", () => locker.tryAcquire(""), EmptyKeyError, /at least one character/],
  ["no key", acquire(undefined), InvalidKeyError, keySays("`undefined`")],
  ["a null key", acquire(null), InvalidKeyError, keySays("`null`")],
  ["a number as a key", acquire(42), InvalidKeyError, keySays("`42` (number)")],
  ["a bigint as a key", acquire(42n), InvalidKeyError, keySays("`42` (bigint)")],
  ["an array as a key", acquire(["k"]), InvalidKeyError, keySays("an array")],
  ["a lone high surrogate", acquire("a\ud800"), InvalidKeyError, /without lone surrogates/],
  ["a lone low surrogate", acquire("\udc00a"), InvalidKeyError, /without lone surrogates/],
  ["a TTL of 0", ttl(0), InvalidTtlError, ttlSays("`0` (number)")],
  ["a TTL of half a millisecond", ttl(0.5), InvalidTtlError, ttlSays("`0.5` (number)")],
  ["a TTL of microseconds", ttl("999us"), InvalidTtlError, ttlSays('`"999us"` (string)')],
  ["a negative TTL", ttl(-1), InvalidTtlError, ttlSays("`-1` (number)")],
  ["a negative TTL in words", ttl("-5s"), InvalidTtlError, ttlSays('`"-5s"` (string)')],
  ["a TTL of NaN", ttl(Number.NaN), InvalidTtlError, ttlSays("`NaN` (number)")],
  ["an infinite TTL", ttl(Number.POSITIVE_INFINITY), InvalidTtlError, ttlSays("`Infinity` (number)")],
  ["a TTL without a unit", ttl("5"), InvalidTtlError, ttlSays('`"5"` (string)')],
  ["a TTL of parsecs", ttl("5 parsecs"), InvalidTtlError, ttlSays('`"5 parsecs"` (string)')],
  ["an empty TTL", ttl(""), InvalidTtlError, ttlSays('`""` (string)')],
  ["a null TTL", ttl(null), InvalidTtlError, ttlSays("`null`")],
  ["a TTL that is a bigint", ttl(5n), InvalidTtlError, ttlSays("`5` (bigint)")],
  [
    "null options",
    acquire(uniqueKey(), null),
    InvalidConfigError,
    "Expected `options` to be an object, got `null`",
  ],
  [
    "a TTL in place of the options",
    acquire(uniqueKey(), "30s"),
    InvalidConfigError,
    /`options` to be an object/,
  ],
  [
    "an unknown option",
    acquire(uniqueKey(), { tll: "1h" }),
    InvalidConfigError,
    /^Expected `tll` to be absent/,
  ],
  [
    "a mode that there is not",
    acquire(uniqueKey(), { mode: "read" }),
    InvalidConfigError,
    'Expected `mode` to be "exclusive" or "shared", got `"read"` (string)',
  ],
  [
    "a signal that is none",
    acquire(uniqueKey(), { signal: {} }),
    InvalidConfigError,
    "Expected `signal` to be an AbortSignal, got an object",
  ],
  [
    "a null signal",
    acquire(uniqueKey(), { signal: null }),
    InvalidConfigError,
    "Expected `signal` to be an AbortSignal, got `null`",
  ],
  [
    "an aborted signal to acquire",
    acquire(uniqueKey(), { signal: AbortSignal.abort(reason) }),
    reason,
    reason.message,
  ],
  [
    "an aborted signal to ping",
    () => locker.ping({ signal: AbortSignal.abort(reason) }),
    reason,
    reason.message,
  ],
  [
    "an aborted signal to refresh",
    () => held((lock) => lock.refresh("1m", { signal: AbortSignal.abort(reason) })),
    reason,
    reason.message,
  ],
  [
    "something that is not a signal to ping",
    () => locker.ping({ signal: {} as Wrong }),
    InvalidConfigError,
    /`signal` to be an AbortSignal/,
  ],
  [
    "something that is not a signal to refresh",
    () => held((lock) => lock.refresh("1m", { signal: {} as Wrong })),
    InvalidConfigError,
    /`signal` to be an AbortSignal/,
  ],
  ["null options to ping", () => locker.ping(null as Wrong), InvalidConfigError, /`options` to be an object/],
  [
    "null options to refresh",
    () => held((lock) => lock.refresh("1m", null as Wrong)),
    InvalidConfigError,
    /`options` to be an object/,
  ],
  ["a TTL of 0 to refresh", () => held((lock) => lock.refresh(0)), InvalidTtlError, ttlSays("`0` (number)")],
  [
    "a null TTL to refresh",
    () => held((lock) => lock.refresh(null as Wrong)),
    InvalidTtlError,
    ttlSays("`null`"),
  ],
  ...(["withLock", "tryWithLock", "withTransaction"] as const).flatMap((method): Row[] => {
    const call =
      (...given: Wrong[]) =>
      () =>
        (locker[method] as Wrong)(uniqueKey(), ...given);
    const never = () => expect.unreachable();
    const noFunction = (got: string) => `Expected \`fn\` to be a function, got ${got}`;
    return [
      [`no function to ${method}`, call(), InvalidConfigError, noFunction("`undefined`")],
      [`options first to ${method}`, call({}, never), InvalidConfigError, noFunction("an object")],
      [`null options to ${method}`, call(never, null), InvalidConfigError, /`options` to be an object/],
      [`a TTL for options to ${method}`, call(never, "5s"), InvalidConfigError, /`options` to be an object/],
      [`a misspelt option to ${method}`, call(never, { tll: 1 }), InvalidConfigError, /`tll` to be absent/],
      [`a negative wait to ${method}`, call(never, { wait: -1 }), InvalidConfigError, /^Expected `wait`/],
      [
        `an empty key to ${method}`,
        () => (locker[method] as Wrong)("", never),
        EmptyKeyError,
        /at least one character/,
      ],
    ];
  }),
  [
    "no keys to acquireAll",
    () => locker.acquireAll(undefined as Wrong),
    InvalidConfigError,
    /an array of keys/,
  ],
  ["an empty key to acquireAll", () => locker.acquireAll([uniqueKey(), ""]), EmptyKeyError, /at least one/],
  [
    "a number as a key to acquireAll",
    () => locker.acquireAll([uniqueKey(), 7 as Wrong]),
    InvalidKeyError,
    keySays("`7` (number)"),
  ],
  [
    "one key twice to acquireAll",
    () => locker.acquireAll(["a", "b", "a"]),
    InvalidConfigError,
    /occurs twice/,
  ],
  [
    "null options to acquireAll",
    () => locker.acquireAll([uniqueKey()], null as Wrong),
    InvalidConfigError,
    /`options` to be an object/,
  ],
  ["a namespace of 1.5", made({ pool, namespace: 1.5 }), InvalidConfigError, namespaceSays("`1.5` (number)")],
  [
    "a namespace in words",
    made({ pool, namespace: "7" }),
    InvalidConfigError,
    namespaceSays('`"7"` (string)'),
  ],
  [
    "a namespace of 2^31",
    made({ pool, namespace: 2 ** 31 }),
    InvalidConfigError,
    namespaceSays("`2147483648` (number)"),
  ],
  ["a null namespace", made({ pool, namespace: null }), InvalidConfigError, namespaceSays("`null`")],
  [
    "no options of a locker",
    made(undefined),
    InvalidConfigError,
    "Expected `options` to be an object, got `undefined`",
  ],
  [
    "an undefined pool",
    made({ pool: undefined }),
    InvalidConfigError,
    /^Expected `pool` to be a node-postgres Pool.*got `undefined`$/,
  ],
  [
    "a pool that is none",
    made({ pool: {} }),
    InvalidConfigError,
    "Expected `pool` to be a node-postgres Pool (or give `database`, `connectionString` or `sql`), got an object",
  ],
  [
    "a pool and a connection string",
    made({ pool, connectionString: databaseUrl() }),
    InvalidConfigError,
    /^Expected `connectionString` to be absent if `pool` is given/,
  ],
  [
    "a pool and a database",
    made({ pool, database: { write: pool } }),
    InvalidConfigError,
    /^Expected `database` to be absent if `pool` is given/,
  ],
  [
    "an unknown option of a locker",
    made({ pool, ttl: "5s" }),
    InvalidConfigError,
    /^Expected `ttl` to be absent/,
  ],
  [
    "a connWaitTimeout without a unit",
    made({ pool, connWaitTimeout: "5" }),
    InvalidConfigError,
    /^Expected `connWaitTimeout` to be a duration/,
  ],
  [
    "an ended pool",
    async () => {
      const ended = createPool();
      await ended.end();
      await new PostgresLocker({ pool: ended }).acquire(uniqueKey());
    },
    DatabaseError,
    /^Taking the lock ".*" failed: .*after calling end/,
  ],
  [
    "a pool that cannot connect",
    () => onUrl("postgres://postgres@127.0.0.1:1/postgres"),
    DatabaseError,
    /ECONNREFUSED/,
  ],
  [
    "a ping that cannot connect",
    () => onUrl("postgres://postgres@127.0.0.1:1/postgres", "ping"),
    DatabaseError,
    /^Ping failed: .*ECONNREFUSED/,
  ],
  ...[
    "postgres://app:s3cret@[nowhere/db",
    "postgres://app:s3cr#et@h/db",
    "postgres://app:s3cr/et@h/db",
    "postgres://app:s3cret@h:99999/db",
    "redis://app:s3cret@h/db",
    "s3cret",
  ].map(
    (url): Row => [
      `the connection string ${url}`,
      made({ connectionString: url }),
      InvalidConfigError,
      /^Expected `connectionString` to be a URL such as "postgres:(?!.*(s3cr|et@)).*, got a string of \d+ characters$/,
    ],
  ),
  [
    "a pool with an invalid connection string, without a bound for the wait",
    async () => {
      await using other = new PostgresLocker({
        pool: createPool({ connectionString: "postgres://u:p#w@h/d" }),
      });
      await other.acquire(uniqueKey(), { wait: true });
    },
    DatabaseError,
    /^Taking the lock ".*" failed: Invalid URL$/,
  ],
  [
    "a ping on a pool that has been ended",
    async () => {
      const ended = createPool();
      await ended.end();
      await new PostgresLocker({ pool: ended }).ping();
    },
    DatabaseError,
    "Ping failed: the pool has been ended",
  ],
  [
    "a database that does not exist",
    () => onUrl(urlWith({ database: "no_such_database" })),
    DatabaseError,
    /"no_such_database" does not exist/,
  ],
  ["a wrong password", withWrongPassword, DatabaseError, /password authentication failed/],
  [
    "acquire of a closed locker",
    () => closed((other) => other.acquire(uniqueKey())),
    LockerClosedError,
    "The locker is closed",
  ],
  [
    "tryAcquire of a closed locker",
    () => closed((other) => other.tryAcquire(uniqueKey())),
    LockerClosedError,
    "The locker is closed",
  ],
  [
    "ping of a closed locker",
    () => closed((other) => other.ping()),
    LockerClosedError,
    "The locker is closed",
  ],
  [
    "refresh of a lock of a closed locker",
    async () => (await orphan()).refresh(),
    LockNotHeldError,
    /its locker was closed$/,
  ],
  [
    "release of a lock of a closed locker",
    async () => (await orphan()).release(),
    LockNotHeldError,
    /its locker was closed$/,
  ],
];

test.each(rows)("%s: a clear error, and nothing reserved", async (_, call, expected, message) => {
  const error = await (async () => call())().then(
    () => new Error("nothing was thrown"),
    (thrown: unknown) => thrown as Error,
  );
  if (expected instanceof Error) expect(error).toBe(expected);
  else expect(error, error.stack).toBeInstanceOf(expected);
  if (typeof message === "string") expect(error.message).toBe(message);
  else expect(error.message).toMatch(message);
  // A shared session goes back a moment later.
  await until(() => pool.totalCount === pool.idleCount);
  expect(await advisoryLocks()).toEqual([]);
});

test("the table has at least forty bad inputs", () => {
  expect(rows.length).toBeGreaterThanOrEqual(40);
});

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test("a key of a megabyte works", async () => {
    const key = uniqueKey() + "x".repeat(1024 * 1024);
    await using own = new PostgresLocker({ sessions, pool });
    await using lock = await own.acquire(key);
    expect(await holdersOf(lockId(0, key))).toHaveLength(1);
    expect(lock.key).toBe(key);
  });

  test("the lowest namespace works", async () => {
    const key = uniqueKey();
    await using lowest = new PostgresLocker({ sessions, pool, namespace: -(2 ** 31) });
    await using _lock = await lowest.acquire(key);
    expect(await holdersOf(lockId(-(2 ** 31), key))).toHaveLength(1);
  });

  test("a TTL of 30 days works: no timer overflows", async () => {
    await using own = new PostgresLocker({ sessions, pool });
    await using lock = await own.acquire(uniqueKey(), { ttl: "720h" });
    await lock.refresh();
    expect(lock.held).toBe(true);
    expect(lock.signal.aborted).toBe(false);
  });

  test("a connWaitTimeout of 30 days works: no timer overflows", async () => {
    await using patient = new PostgresLocker({
      sessions,
      pool: createPool({ max: 1 }),
      connWaitTimeout: "720h",
    });
    await using lock = await patient.acquire(uniqueKey());
    expect(lock.held).toBe(true);
  });
});

test("the pool's own time-out crashes nothing if it comes after the locker's", async () => {
  const small = await createOpenPool({ max: 1, connectionTimeoutMillis: 200 });
  await using impatient = new PostgresLocker({ sessions: "dedicated", pool: small, connWaitTimeout: "20ms" });
  await using _lock = await impatient.acquire(uniqueKey());
  await expect(impatient.acquire(uniqueKey())).rejects.toMatchObject({ reason: "pool-saturated" });
  // Queued after the locker's request, so that the pool has given up on both by then.
  await expect(small.connect()).rejects.toThrow("timeout exceeded");
});
