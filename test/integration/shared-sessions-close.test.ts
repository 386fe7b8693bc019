import { describe, expect, test } from "vitest";
import { LockLostError, type PostgresLockerOptions } from "../../src/index.ts";
import { advisoryLocks, createPool, databaseUrl, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { observedPool } from "../support/observed-pool.ts";
import { acquireMany } from "../support/shared-locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// close() ends the shared sessions with all their locks, whatever is under way on them.

describe("close", () => {
  test("frees 500 locks, and ends 50 acquires under way", async () => {
    const pool = createPool();
    const locker = createLocker({ pool, sessions: "shared" });
    const locks = await acquireMany(locker, 500);
    const signals = locks.map((lock) => lock.signal);
    const acquired = Promise.allSettled(Array.from({ length: 50 }, () => locker.acquire(uniqueKey())));
    await locker.close();
    expect(await advisoryLocks()).toEqual([]);
    expect([pool.totalCount, pool.idleCount, pool.waitingCount]).toEqual([1, 1, 0]);
    for (const each of await acquired)
      expect(each).toMatchObject({ status: "rejected", reason: { code: "LOCKER_CLOSED" } });
    expect(signals.every((signal) => signal.reason instanceof LockLostError)).toBe(true);
    for (const lock of locks) expect(lock.held).toBe(false);
    await expect(locks[0]?.release()).rejects.toMatchObject({ reason: "closed" });
  });

  test("ends acquires that are on the way, and frees what they are granted", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = observedPool({ connectionString: proxy.url });
    const locker = createLocker({ pool, sessions: "shared" });
    await acquireMany(locker, 10);
    proxy.freeze({ direction: "toClient" });
    statements.length = 0;
    const keys = Array.from({ length: 50 }, () => uniqueKey());
    const acquired = Promise.allSettled(keys.map((key) => locker.acquire(key)));
    await until(() => statements.length === 1);
    const closed = locker.close();
    for (const each of await acquired) expect(each).toMatchObject({ reason: { code: "LOCKER_CLOSED" } });
    proxy.thaw();
    await closed;
    expect(await advisoryLocks()).toEqual([]);
    expect([pool.totalCount, pool.idleCount]).toEqual([1, 1]);
  });

  test("frees a lock that one more shared holder is about to have", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = observedPool({ connectionString: proxy.url });
    const locker = createLocker({ pool, sessions: "shared" });
    const key = uniqueKey();
    await locker.acquire(key, { mode: "shared" });
    proxy.freeze({ direction: "toClient" });
    statements.length = 0;
    const acquired = locker.acquire(key, { mode: "shared" }).catch((error: unknown) => error);
    await until(() => statements.length === 1);
    const closed = locker.close();
    expect(await acquired).toMatchObject({ code: "LOCKER_CLOSED" });
    proxy.thaw();
    await closed;
    expect(await advisoryLocks()).toEqual([]);
    expect(pool.idleCount).toBe(1);
  });

  test("frees a lock that was lost because nobody answered", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    const locker = createLocker({ pool, sessions: "shared" });
    const { signal } = await locker.acquire(uniqueKey(), { ttl: 400, autoRefresh: true });
    proxy.freeze({ direction: "toClient" });
    await until(() => signal.aborted);
    const closed = locker.close();
    proxy.thaw();
    await closed;
    expect(await advisoryLocks()).toEqual([]);
    expect(pool.totalCount).toBe(pool.idleCount);
  });

  test("gives up on a silent server, and ends the session with all its locks", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    const locker = createLocker({ pool, sessions: "shared" });
    await acquireMany(locker, 20);
    proxy.freeze();
    await locker.close();
    expect(pool.totalCount).toBe(0);
    proxy.thaw();
    await until(async () => (await advisoryLocks()).length === 0);
  });

  test("while the session is being opened does not hang", async () => {
    await closeWhileOpening({});
  });

  test("doesn't hang while a session is being opened with an unbounded connWaitTimeout", async () => {
    await closeWhileOpening({ connWaitTimeout: -1 });
  });

  test("returns a session at once that carries nothing", async () => {
    const pool = createPool();
    const locker = createLocker({ pool, sessions: "shared" });
    await (await locker.acquire(uniqueKey())).release();
    await locker.close();
    expect([pool.totalCount, pool.idleCount]).toEqual([1, 1]);
  });
});

async function closeWhileOpening(options: Pick<PostgresLockerOptions, "connWaitTimeout">): Promise<void> {
  await using proxy = await TcpProxy.start(databaseUrl());
  const pool = createPool({ connectionString: proxy.url });
  const locker = createLocker({ pool, sessions: "shared", ...options });
  proxy.freeze();
  const acquired = locker.acquire(uniqueKey()).catch((error: unknown) => error);
  await until(() => proxy.size === 1);
  let isClosed = false;
  void locker.close().then(() => {
    isClosed = true;
  });
  expect(await acquired).toMatchObject({ code: "LOCKER_CLOSED" });
  const hangs = await until(() => isClosed, { deadline: 8_000 }).catch((error: unknown) => error);
  proxy.thaw();
  await until(() => isClosed && pool.totalCount === pool.idleCount);
  expect(await advisoryLocks()).toEqual([]);
  expect(hangs).toBe(true);
}
