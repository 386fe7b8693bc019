import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import {
  type Lock,
  type Locker,
  LockNotAcquiredError,
  listLocks,
  MemoryLocker,
  type NotHeldReason,
} from "../../src/index.ts";
import { Child } from "../support/child.ts";
import { connect, createPool, databaseUrl, terminateHolder, uniqueKey } from "../support/database.ts";
import { eachLocker } from "../support/each-locker.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

// What a person sees who looks at a locker or a lock: in the console, in JSON, in its counts, in the debug log.

const nothing = { locks: 0, sessions: 0, waiting: 0, inFlight: 0, closed: false };

describe("stats()", () => {
  test.each(["shared", "dedicated"] as const)("counts locks and sessions: %s", async (sessions) => {
    const pool = createPool();
    const locker = createLocker({ pool, sessions });
    const { stats } = locker;
    expect(stats()).toEqual(nothing);
    const locks = await Promise.all([1, 2, 3].map(() => locker.acquire(uniqueKey())));
    expect(stats()).toEqual({ ...nothing, locks: 3, sessions: sessions === "shared" ? 1 : 3 });
    await locker.withTransaction(uniqueKey(), () => {
      expect(stats()).toMatchObject({ locks: 4, inFlight: 0 });
    });
    for (const lock of locks) await lock.release();
    expect(stats()).toMatchObject({ locks: 0, inFlight: 0 });
    await locker.close();
    expect(stats()).toEqual({ ...nothing, closed: true });
  });

  test("counts the callers that wait, and those that try", async () => {
    await using locker = createLocker();
    await using holder = createLocker();
    const lock = await holder.acquire(uniqueKey());
    const left = new AbortController();
    const waits = [1, 2].map(() => locker.acquire(lock.key, { wait: true, signal: left.signal }));
    expect(locker.stats()).toMatchObject({ waiting: 2, inFlight: 0 });
    const tried = locker.tryAcquire(lock.key);
    expect(locker.stats()).toMatchObject({ waiting: 2, inFlight: 1 });
    expect(await tried).toBeUndefined();
    expect(locker.stats()).toMatchObject({ waiting: 2, inFlight: 0 });
    await until(() => locker.stats().sessions > 0);
    left.abort();
    await Promise.allSettled(waits);
    await until(() => locker.stats().waiting === 0 && locker.stats().inFlight === 0);
  });
});

test("the console shows what a locker is, and has", async () => {
  const memory = new MemoryLocker({ namespace: 7 });
  await memory.acquire("a");
  expect(inspect(memory)).toMatch(/^MemoryLocker \{\s+namespace: 7,\s+locks: 1,\s+sessions: 0,\s+waiting: 0/);
  const locker = createLocker({ namespace: -7, ttlEnforcement: "server" });
  expect(inspect(locker)).toMatch(
    /^PostgresLocker \{\s+namespace: -7,\s+sessions: '0 shared'.*ttlEnforcement: 'server'/s,
  );
  await locker.close();
  expect(inspect(locker)).toContain("closed: true");
});

const quiet = { debug() {}, info() {}, warn() {}, error() {} };

test.each([
  ["by itself", {}],
  ["with a logger, which watches for lost handles", { logger: quiet }],
])("a lock is shown by the console and by JSON, %s", async (_, options) => {
  const locker = new MemoryLocker(options);
  const lock = await locker.acquire("invoice:42", { ttl: "1m", fencing: true });
  const shown = `key: 'invoice:42', id: ${lock.id}n, mode: 'exclusive', held: true, expired: false, ttl: 60000, fencingToken: 1n`;
  expect(inspect(lock, { breakLength: Number.POSITIVE_INFINITY })).toBe(`Lock { ${shown} }`);
  const written = { key: "invoice:42", id: lock.id.toString(), mode: "exclusive", ttl: 60_000 };
  expect(JSON.parse(JSON.stringify(lock))).toEqual({
    ...written,
    held: true,
    expired: false,
    fencingToken: "1",
  });
  await lock.release();
  expect(inspect(lock)).toContain("held: false");
});

/** Takes a lock, has it end, and returns its handle. */
type Ending = (locker: Locker, key: string) => Promise<Lock>;

const endings: ReadonlyArray<readonly [NotHeldReason, string, Ending]> = [
  [
    "released",
    "a release",
    async (locker, key) => {
      const lock = await locker.acquire(key);
      await lock.release();
      return lock;
    },
  ],
  [
    "released",
    "an early release of a lock that is kept",
    async (locker, key) => {
      const lock = await locker.acquire(key, { holdAtLeast: "1h" });
      await lock.release();
      return lock;
    },
  ],
  [
    "released",
    "the release of a permit",
    async (locker, key) => {
      const permit = await locker.semaphore(key, 2).acquire();
      await permit.release();
      return permit;
    },
  ],
  [
    "released",
    "the release of a share of a lock",
    (locker, key) =>
      locker.withLock(key, async () => {
        const lock = await locker.acquire(key, { reentrant: true });
        await lock.release();
        return lock;
      }),
  ],
  [
    "lost",
    "the end of the function around a share of a lock",
    (locker, key) => locker.withLock(key, () => locker.acquire(key, { reentrant: true })),
  ],
  [
    "expired",
    "an expiry",
    async (locker, key) => {
      const lock = await locker.acquire(key, { ttl: 50 });
      await until(() => lock.expired);
      return lock;
    },
  ],
  [
    "closed",
    "close()",
    async (locker, key) => {
      const lock = await locker.acquire(key);
      await locker.close();
      return lock;
    },
  ],
];

describe.each(eachLocker)("%s: a lock that is no longer held", (_, create) => {
  test.each(endings)("is shown as %s after %s", async (reason, _after, end) => {
    await using locker = create();
    const key = uniqueKey();
    const lock = await end(locker, key);
    expect(inspect(lock)).toMatch(new RegExp(`^Lock \\{.*held: false,.*reason: '${reason}'`, "s"));
    expect(JSON.parse(JSON.stringify(lock))).toMatchObject({ key, held: false, reason });
  });
});

test.each(["shared", "dedicated"] as const)("a lock that is lost is shown as lost (%s)", async (sessions) => {
  await using locker = createLocker({ sessions });
  const lock = await locker.acquire(uniqueKey());
  await terminateHolder(lock.id);
  await until(() => lock.signal.aborted);
  expect(inspect(lock)).toMatch(/held: false,.*reason: 'lost'/s);
  expect(JSON.parse(JSON.stringify(lock))).toMatchObject({ held: false, reason: "lost" });
});

test("a lock on a client that has ended is shown as lost", async () => {
  await using locker = createLocker();
  const client = await connect();
  const lock = await locker.acquire(uniqueKey(), { client });
  await client.end();
  expect(inspect(lock)).toMatch(/held: false,.*reason: 'lost'/s);
  expect(JSON.parse(JSON.stringify(lock))).toMatchObject({ held: false, reason: "lost" });
});

describe.each(eachLocker)("%s: the console and JSON show", (_, create) => {
  test("several locks with each of them, and whether all are held", async () => {
    await using locker = create();
    const keys = [uniqueKey(), uniqueKey()];
    const group = await locker.acquireAll(keys);
    expect(inspect(group)).toMatch(/^LockGroup \{\s+held: true,\s+locks: \[\s+Lock \{\s+key: /);
    const locks = keys.map((key) => ({ key, held: true }));
    expect(JSON.parse(JSON.stringify(group))).toMatchObject({ held: true, locks });
    await group.release();
    expect(inspect(group)).toMatch(/^LockGroup \{\s+held: false/);
  });

  test("a semaphore with its key and its permits, and without its methods", async () => {
    await using locker = create();
    const semaphore = locker.semaphore("api", 3);
    expect(inspect(semaphore)).toBe("Semaphore { key: 'api', permits: 3 }");
    expect(JSON.stringify({ semaphore })).toBe('{"semaphore":{"key":"api","permits":3}}');
  });

  test("a namespace with its prefix and its locker, and without its methods", async () => {
    await using locker = create();
    const outer = locker.namespace("billing");
    const shown = `NamespacedLocker {\n  prefix: 'eu:',\n  locker: NamespacedLocker {\n    prefix: 'billing:',`;
    expect(inspect(outer.namespace("eu"), { depth: null })).toContain(shown);
    expect(inspect(outer)).toContain("locks: 0");
    expect(JSON.stringify(outer)).toBe('{"prefix":"billing:"}');
  });
});

test.each(eachLocker)(
  "%s: events and inspect() can be written as JSON, with ids as strings",
  async (_, create) => {
    await using locker = create();
    const events: unknown[] = [];
    for (const name of ["acquired", "released"] as const) locker.on(name, (event) => events.push(event));
    const lock = await locker.acquire(uniqueKey(), { fencing: true });
    const id = lock.id.toString();
    const inspection = await locker.inspect(lock.key);
    expect(JSON.parse(JSON.stringify({ inspection }))).toMatchObject({ inspection: { id, holders: [{}] } });
    await lock.release();
    await until(() => events.length === 2);
    const fencingToken = lock.fencingToken?.toString();
    expect(JSON.parse(JSON.stringify(events))).toMatchObject([{ id, fencingToken }, { id }]);
    expect(events).toMatchObject([{ id: lock.id }, { id: lock.id }]);
  },
);

test("the list of locks can be written as JSON, with ids as strings", async () => {
  const pool = createPool();
  await using locker = createLocker({ pool });
  const { id } = await locker.acquire(uniqueKey());
  const list = await listLocks(pool, { id });
  expect(JSON.parse(JSON.stringify(list))).toMatchObject([{ id: id.toString(), state: "held" }]);
});

test("an error with a lock in it can be written as JSON", async () => {
  const locker = new MemoryLocker();
  const lock = await locker.acquire("a");
  const error = await locker.acquire("a").catch((refused: unknown) => refused);
  expect(error).toBeInstanceOf(LockNotAcquiredError);
  expect(() => JSON.stringify({ lock, error })).not.toThrow();
});

test("NODE_DEBUG=pg-locker writes a line for each transition, and none without it", async () => {
  const env = { DATABASE_URL: databaseUrl(), KEY: uniqueKey("debug\u009b\u202e") };
  await using loud = Child.start("acquire-and-release.mjs", { env: { ...env, NODE_DEBUG: "pg-locker" } });
  expect(await loud.exited).toMatchObject({ code: 0 });
  for (const what of ["session opened", "statement", "granted", "session returned"]) {
    expect(loud.stderr).toContain(what);
  }
  expect(loud.stderr).toMatch(/statement \{"pid":\d+,"operations":1\}/);
  expect(loud.stderr).toContain(env.KEY.replace("\u009b\u202e", "\\u009b\\u202e"));
  expect(loud.stderr.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\p{Cf}]/u);
  await using silent = Child.start("acquire-and-release.mjs", { env });
  expect(await silent.exited).toMatchObject({ code: 0 });
  expect(silent.stderr).not.toContain("session");
});
