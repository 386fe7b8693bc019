import { describe, expect, test } from "vitest";
import { DatabaseError, LockLostError, PoolerDetectedError } from "../../src/index.ts";
import { advisoryLocks, createPool, databaseUrl, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { observedPool } from "../support/observed-pool.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// No session is available: all callers that wait for one are told why, once each.

describe("if no session is available", () => {
  test("everybody is told that the pool is saturated, until it has a session", async () => {
    const pool = createPool({ max: 2 });
    await using locker = createLocker({ pool, sessions: "shared", connWaitTimeout: 200 });
    const [client, other] = [await pool.connect(), await pool.connect()];
    const asked = await Promise.allSettled(Array.from({ length: 20 }, () => locker.acquire(uniqueKey())));
    for (const each of asked)
      expect(each).toMatchObject({
        status: "rejected",
        reason: { code: "LOCK_NOT_ACQUIRED", reason: "pool-saturated" },
      });
    client.release();
    other.release();
    await until(() => pool.waitingCount === 0 && pool.idleCount === 2);
    await (await locker.acquire(uniqueKey())).release();
  });

  test("all callers are told that the server does not answer", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared", connWaitTimeout: 200 });
    proxy.freeze();
    const asked = await Promise.allSettled(Array.from({ length: 20 }, () => locker.acquire(uniqueKey())));
    for (const each of asked) expect(each).toMatchObject({ reason: { reason: "connection-timeout" } });
    proxy.thaw();
    await until(() => pool.totalCount === pool.idleCount);
    await using locks = await locker.acquireAll([uniqueKey(), uniqueKey()]);
    expect(locks.held).toBe(true);
  });

  test("all callers are told that the server refuses", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    await proxy.refuse();
    const asked = await Promise.allSettled(Array.from({ length: 20 }, () => locker.acquire(uniqueKey())));
    for (const each of asked) expect((each as PromiseRejectedResult).reason).toBeInstanceOf(DatabaseError);
    expect(pool.totalCount).toBe(0);
    await proxy.accept();
    await (await locker.acquire(uniqueKey())).release();
  });

  test("all callers are told of the pooler in the way, and nothing is set or locked", async () => {
    const { pool, clients } = observedPool({ application_name: "somebody's" });
    pool.on("connect", (client) => {
      (client as unknown as { processID: number }).processID += 1_000_000;
    });
    await using locker = createLocker({ pool, sessions: "shared" });
    const asked = await Promise.allSettled(Array.from({ length: 20 }, () => locker.acquire(uniqueKey())));
    for (const each of asked) {
      const { reason: error } = each as PromiseRejectedResult;
      expect(error).toBeInstanceOf(PoolerDetectedError);
      expect(error.message).toContain('pooler: "session"');
    }
    expect([await advisoryLocks(), pool.totalCount, clients.length]).toEqual([[], 0, 1]);
    await using trusting = createLocker({ pool, sessions: "shared", pooler: "session" });
    await using lock = await trusting.acquire(uniqueKey());
    await lock.refresh();
  });

  test("a session that stops answering is destroyed with all that it carries", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    const lock = await locker.acquire(uniqueKey(), { ttl: "1m" });
    const { signal } = lock;
    proxy.freeze();
    await expect(locker.acquire(uniqueKey())).rejects.toBeInstanceOf(DatabaseError);
    expect([lock.held, signal.reason instanceof LockLostError, pool.totalCount]).toEqual([false, true, 0]);
    proxy.thaw();
    await until(async () => (await advisoryLocks()).length === 0);
  });
});
