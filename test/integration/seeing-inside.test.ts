import { inspect } from "node:util";
import { describe, expect, test } from "vitest";
import { LockNotAcquiredError, MemoryLocker } from "../../src/index.ts";
import { Child } from "../support/child.ts";
import { createPool, databaseUrl, uniqueKey } from "../support/database.ts";
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
  expect(loud.stderr).toContain(env.KEY.replace("\u009b\u202e", "\\u009b\\u202e"));
  expect(loud.stderr.replaceAll("\n", "")).not.toMatch(/[\p{Cc}\p{Cf}]/u);
  await using silent = Child.start("acquire-and-release.mjs", { env });
  expect(await silent.exited).toMatchObject({ code: 0 });
  expect(silent.stderr).not.toContain("session");
});
