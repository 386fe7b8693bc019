import { describe, expect, test, vi } from "vitest";
import type { Lock } from "../../src/index.ts";
import { forOne, forSeveral } from "../../src/postgres/sql-shared.ts";
import { advisoryLocks, createPool, databaseUrl, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { observedPool } from "../support/observed-pool.ts";
import { acquireMany, sortedIds, witnessOf } from "../support/shared-locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// Operations on a busy session are sent together, in few statements, and answered one by one.

describe("operations that arrive while a statement is under way", () => {
  test("go out together, and all of them succeed", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = observedPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    const [kept, ...locks] = await acquireMany(locker, 101);
    proxy.freeze();
    statements.length = 0;
    const refreshed = kept?.refresh();
    const released = locks.map((lock) => lock.release());
    const acquired = Array.from({ length: 100 }, () => locker.acquire(uniqueKey()));
    await until(() => statements.length === 1);
    proxy.thaw();
    await Promise.all([refreshed, ...released]);
    const next = await Promise.all(acquired);
    expect(statements.length).toBeLessThanOrEqual(3);
    expect(sortedIds(await advisoryLocks())).toEqual(sortedIds([kept as Lock, ...next]));
  });

  test("go out in two halves if there are many, without waiting for the first answer", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = observedPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    const locks = await acquireMany(locker, 201);
    proxy.freeze();
    statements.length = 0;
    const [alone, ...released] = locks.map((lock) => lock.release());
    await until(() => statements.length === 1);
    proxy.thaw();
    await Promise.race(released);
    expect(statements).toHaveLength(3);
    await Promise.all([alone, ...released]);
    expect(statements).toHaveLength(3);
  });

  test("wait for those of the callers whom its answer lets go on, and go out with them", async () => {
    const { pool, statements } = observedPool();
    await using locker = createLocker({ pool, sessions: "shared" });
    await (await locker.acquire(uniqueKey())).release();
    statements.length = 0;
    const caller = async (): Promise<void> => {
      for (let round = 0; round < 10; round += 1) await (await locker.acquire(uniqueKey())).release();
    };
    await Promise.all(Array.from({ length: 20 }, caller));
    // The first caller's goes out before the others have asked, and its last one after them.
    expect(statements.length).toBeLessThanOrEqual(22);
  });

  test("go out even if a test fakes the turns of the event loop", async () => {
    await using locker = createLocker({ pool: createPool(), sessions: "shared" });
    await (await locker.acquire(uniqueKey())).release();
    vi.useFakeTimers({ toFake: ["queueMicrotask", "setImmediate"] });
    try {
      for (let round = 0; round < 3; round += 1) await (await locker.acquire(uniqueKey())).release();
    } finally {
      vi.useRealTimers();
    }
  });

  test("go out alone if there is only one, in a cheaper statement", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = observedPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    const texts = () => statements.splice(0).map((each) => (each as { text: string }).text);
    const alone = (["x", "p", "u"] as const).map((operation) => forOne[operation].text);
    const kept = await locker.acquire(uniqueKey());
    texts();
    const lock = await locker.acquire(uniqueKey());
    await lock.refresh();
    await lock.release();
    expect(texts()).toEqual(alone);
    proxy.freeze();
    const refreshed = kept.refresh();
    await until(() => statements.length === 1);
    const acquired = [1, 2].map(() => locker.acquire(uniqueKey()));
    await new Promise(setImmediate);
    proxy.thaw();
    await Promise.all([refreshed, ...acquired]);
    const together = forSeveral.text;
    expect(texts()).toEqual([alone[1], together]);
  });

  test("are done in order: a key that is released and asked for again is granted", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = observedPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    const [kept, ...locks] = await acquireMany(locker, 51);
    proxy.freeze();
    statements.length = 0;
    const refreshed = kept?.refresh();
    const released = locks.map((lock) => lock.release());
    await new Promise(setImmediate);
    const acquired = locks.map((lock) => locker.acquire(lock.key));
    await new Promise(setImmediate);
    proxy.thaw();
    await Promise.all([refreshed, ...released]);
    const next = await Promise.all(acquired);
    expect(statements.length).toBeLessThanOrEqual(4);
    expect(next.every((lock) => lock.held)).toBe(true);
    expect(sortedIds(await advisoryLocks())).toEqual(sortedIds([kept as Lock, ...next]));
  });

  test("are granted and refused one by one", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    await using other = createLocker({ sessions: "shared" });
    await using kept = await locker.acquire(uniqueKey());
    const taken = await acquireMany(other, 20);
    proxy.freeze();
    const refreshed = kept.refresh();
    const keys = taken.flatMap((lock) => [lock.key, uniqueKey()]);
    const asked = keys.map((key, i) =>
      locker.tryAcquire(key, { mode: i % 3 === 0 ? "shared" : "exclusive" }),
    );
    await new Promise(setImmediate);
    proxy.thaw();
    await refreshed;
    const locks = await Promise.all(asked);
    expect(locks.map((lock) => lock?.held)).toEqual(keys.map((_, i) => (i % 2 === 0 ? undefined : true)));
    const granted = locks.flatMap((lock) => (lock === undefined ? [] : [lock]));
    expect(sortedIds(await advisoryLocks())).toEqual(sortedIds([kept, ...taken, ...granted]));
  });

  test("bring a fencing token only to those that asked for one", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    await using kept = await locker.acquire(uniqueKey());
    proxy.freeze();
    const refreshed = kept.refresh();
    const asked = [true, false, true, false].map((fencing) => locker.acquire(uniqueKey(), { fencing }));
    await new Promise(setImmediate);
    proxy.thaw();
    await refreshed;
    const tokens = (await Promise.all(asked)).map((lock) => typeof lock.fencingToken);
    expect(tokens).toEqual(["bigint", "undefined", "bigint", "undefined"]);
  });
});

test("more locks than fit into one statement are asked for in several", async () => {
  const { pool, statements } = observedPool();
  await using locker = createLocker({ pool, sessions: "shared", maxLocksPerSession: 3_000 });
  await using first = await locker.acquire(uniqueKey());
  statements.length = 0;
  const locks = await acquireMany(locker, 2_500, { ttl: "5m" });
  expect(statements.length).toBeLessThanOrEqual(5);
  expect(sortedIds(await advisoryLocks())).toEqual(sortedIds([first, ...locks]));
  await Promise.all(locks.map((lock) => lock.release()));
  expect(await advisoryLocks()).toHaveLength(1);
});

test.each(["client", "server"] as const)(
  "200 self-refreshing locks cost a few statements a round, ttlEnforcement: %j",
  async (ttlEnforcement) => {
    const { pool, statements } = observedPool();
    await using locker = createLocker({ pool, sessions: "shared", ttlEnforcement });
    const locks = await acquireMany(locker, 200, { ttl: 1_500, autoRefresh: true });
    statements.length = 0;
    // Longer than the TTL, which is three rounds or more.
    const witness = await witnessOf(2_000);
    await until(() => !witness.held);
    expect(locks.every((lock) => lock.held && !lock.signal.aborted)).toBe(true);
    expect(statements.length).toBeGreaterThan(0);
    expect(statements.length).toBeLessThan(50);
    await Promise.all(locks.map((lock) => lock.release()));
  },
);
