import { describe, expect, test } from "vitest";
import {
  DatabaseError,
  type Lock,
  LockExpiredError,
  LockLostError,
  LockNotHeldError,
} from "../../src/index.ts";
import {
  advisoryLocks,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  terminateHolder,
  uniqueKey,
} from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { observedPool } from "../support/observed-pool.ts";
import { acquireMany, sortedIds } from "../support/shared-locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// What happens to one lock of a session happens to no other, except for the end of their session, of which each holder hears.

test.each([
  ["a lock whose refresh has no answer in time is lost alone", false, 2_000, LockLostError],
  ["a lock that refreshes itself, and has no answer in time, expires alone", true, 400, LockExpiredError],
])("%s, and is freed as soon as the link is back", async (_, autoRefresh, ttl, reason) => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await using locker = createLocker({
    pool: createPool({ connectionString: proxy.url }),
    sessions: "shared",
  });
  const short = await locker.acquire(uniqueKey(), { ttl, autoRefresh });
  const long = await locker.acquire(uniqueKey(), { ttl: "1m" });
  const { signal } = short;
  proxy.freeze();
  if (!autoRefresh) await expect(short.refresh()).rejects.toBeInstanceOf(LockNotHeldError);
  await until(() => signal.aborted);
  expect(signal.reason).toBeInstanceOf(reason);
  expect([short.held, long.held]).toEqual([false, true]);
  proxy.thaw();
  await until(async () => (await holdersOf(short.id)).length === 0);
  await long.refresh();
  expect([long.held, long.signal.aborted]).toEqual([true, false]);
  await (await locker.acquire(short.key)).release();
});

describe("the end of a session", () => {
  test("aborts the signal of each of its locks once, and touches no other", async () => {
    await using locker = createLocker({ sessions: "shared", maxLocksPerSession: 20 });
    await using other = createLocker({ sessions: "shared" });
    const locks = await acquireMany(locker, 20);
    const elsewhere = [await locker.acquire(uniqueKey()), await other.acquire(uniqueKey())];
    const heard = locks.map(({ signal }) => {
      const reasons: unknown[] = [];
      signal.addEventListener("abort", () => reasons.push(signal.reason));
      return reasons;
    });
    await terminateHolder(locks[0]?.id ?? 0n);
    await until(() => heard.every((reasons) => reasons.length > 0));
    for (const [i, reasons] of heard.entries()) {
      expect(reasons).toHaveLength(1);
      expect(reasons[0]).toBeInstanceOf(LockLostError);
      expect(reasons[0]).toMatchObject({ key: locks[i]?.key, cause: { code: "57P01" } });
    }
    for (const lock of locks) {
      expect([lock.held, lock.expired]).toEqual([false, false]);
      for (const failure of [lock.refresh(), lock.release()])
        await expect(failure).rejects.toMatchObject({ code: "LOCK_NOT_HELD", reason: "lost" });
    }
    expect(heard.flat()).toHaveLength(20);
    await Promise.all(elsewhere.map((lock) => lock.refresh()));
    expect(elsewhere.map((lock) => [lock.held, lock.signal.aborted])).toEqual([
      [true, false],
      [true, false],
    ]);
    expect(sortedIds(await advisoryLocks())).toEqual(sortedIds(elsewhere));
  });

  test("leaves every key to the next one, on a new session", async () => {
    const pool = createPool({ max: 1 });
    await using locker = createLocker({ pool, sessions: "shared" });
    const locks = await acquireMany(locker, 10);
    const [before] = await holdersOf(locks[0]?.id ?? 0n);
    await terminateHolder(locks[0]?.id ?? 0n);
    await until(() => locks.every((lock) => !lock.held));
    const next = await Promise.all(locks.map((lock) => locker.acquire(lock.key)));
    const pids = new Set((await advisoryLocks()).map(({ pid }) => pid));
    expect([pids.size, pids.has(before ?? 0)]).toEqual([1, false]);
    // The lost handles must not touch the new locks.
    for (const lock of locks) await expect(lock.release()).rejects.toMatchObject({ reason: "lost" });
    expect(sortedIds(await advisoryLocks())).toEqual(sortedIds(next));
  });

  test("fails what was sent, and asks for what was queued on a new session", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    const locks = await acquireMany(locker, 20);
    proxy.freeze({ direction: "toServer" });
    const refreshed = locks.slice(0, 10).map((lock) => lock.refresh());
    const released = locks.slice(10).map((lock) => lock.release());
    const acquired = Array.from({ length: 20 }, () => locker.acquire(uniqueKey()));
    const all = Promise.allSettled([...refreshed, ...released, ...acquired]);
    await terminateHolder(locks[0]?.id ?? 0n);
    await until(() => locks[0]?.held === false);
    proxy.thaw();
    const codes = (await all).map((each) => (each.status === "rejected" ? each.reason.code : "fulfilled"));
    expect(codes).toEqual([...Array(20).fill("LOCK_NOT_HELD"), ...Array(20).fill("fulfilled")]);
    await until(async () => (await advisoryLocks()).length === 20);
    for (const each of await Promise.all(acquired)) await each.release();
    await using again = await locker.acquire(locks[0]?.key ?? "");
    expect(again.held).toBe(true);
  });

  test("by a cut link is told at once to all that it carried", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    const signals = (await acquireMany(locker, 10)).map((lock) => lock.signal);
    proxy.cut();
    await until(() => signals.every(({ reason }) => reason instanceof LockLostError));
    expect(pool.totalCount).toBe(0);
  });
});

describe("locks that are freed behind their holders' backs", () => {
  test.each(["refresh", "release"] as const)(
    "by DISCARD ALL are all lost, as the next %s says",
    async (what) => {
      const { pool, clients } = observedPool();
      await using locker = createLocker({ pool, sessions: "shared" });
      const [lock, ...others] = await acquireMany(locker, 10);
      const signals = others.map(({ signal }) => signal);
      await clients[0]?.query("discard all");
      await expect(lock?.[what]()).rejects.toMatchObject({ reason: "lost" });
      expect(signals.every((signal) => signal.reason instanceof LockLostError)).toBe(true);
      expect(others.some(({ held }) => held)).toBe(false);
      expect(pool.totalCount).toBe(0);
    },
  );

  test("by DISCARD ALL are lost, as the next acquire says, which is granted nothing", async () => {
    const { pool, clients } = observedPool();
    await using locker = createLocker({ pool, sessions: "shared" });
    const locks = await acquireMany(locker, 10);
    await clients[0]?.query("discard all");
    await expect(locker.acquire(uniqueKey())).rejects.toBeInstanceOf(DatabaseError);
    expect(locks.some(({ held }) => held)).toBe(false);
    await until(async () => (await advisoryLocks()).length === 0);
    await using next = await locker.acquire(uniqueKey());
    expect(next.held).toBe(true);
  });

  test("by pg_advisory_unlock_all are all lost, as the first release says", async () => {
    const { pool, clients } = observedPool();
    await using locker = createLocker({ pool, sessions: "shared" });
    const [lock, ...others] = await acquireMany(locker, 10);
    const signals = others.map(({ signal }) => signal);
    await clients[0]?.query("select pg_advisory_unlock_all()");
    await expect(lock?.release()).rejects.toMatchObject({
      reason: "lost",
      cause: expect.any(DatabaseError),
    });
    expect(signals.every((signal) => signal.reason instanceof LockLostError)).toBe(true);
    expect(pool.totalCount).toBe(0);
  });
});

test("statements cancelled at any moment leave what the handles say", async () => {
  const pool = createPool({ max: 2 });
  await using locker = createLocker({ pool, sessions: "shared" });
  await locker.acquire(uniqueKey());
  let over = false;
  const cancelling = (async () => {
    while (!over) {
      await onServer(
        "select pg_cancel_backend(pid) from pg_locks, generate_series(1, 3) where locktype = 'advisory' and database = (select oid from pg_database where datname = $1)",
        [new URL(databaseUrl()).pathname.slice(1)],
      );
    }
  })();
  const handles: Lock[] = [];
  let cancelled = 0;
  try {
    for (let round = 0; round < 40 || (cancelled === 0 && round < 1_000); round++) {
      const asked = await Promise.allSettled(Array.from({ length: 200 }, () => locker.acquire(uniqueKey())));
      const mine: Lock[] = [];
      for (const each of asked) {
        if (each.status === "fulfilled") mine.push(each.value);
        else {
          expect(each.reason).toMatchObject({ code: "DATABASE_ERROR" });
          cancelled += 1;
        }
      }
      // More would fill the sessions, of which the pool has two, before a statement is hit.
      if (round < 40) handles.push(...mine.splice(0, 10));
      await Promise.allSettled(mine.map((lock) => lock.release()));
    }
  } finally {
    over = true;
    await cancelling;
  }
  const rest = handles.filter((lock) => lock.held);
  // The first lock of the test has no name any more.
  const inServer = (await advisoryLocks()).filter(({ id }) => handles.some((lock) => lock.id === id));
  expect(sortedIds(inServer)).toEqual(sortedIds(rest));
  expect((await advisoryLocks()).length - inServer.length).toBeLessThanOrEqual(1);
  expect(cancelled).toBeGreaterThan(0);
});
