import { describe, expect, test } from "vitest";
import {
  DatabaseError,
  type Lock,
  LockerClosedError,
  LockLostError,
  LockNotHeldError,
} from "../../src/index.ts";
import { advisoryLocks, createPool, databaseUrl, onServer, uniqueKey } from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { startServer } from "../support/start-server.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

describe.each(sessionModes)("with %s sessions", (sessions) => {
  describe("close", () => {
    test.each([0, 1, 5, 10])(
      "in the middle of fifty acquires, %i granted, leaves nothing",
      async (granted) => {
        const pool = createPool({ max: 10 });
        const locker = createLocker({ sessions, pool });
        const locks: Lock[] = [];
        let reached: () => void = () => {};
        const enough = new Promise<void>((resolve) => {
          reached = resolve;
        });
        const acquires = Array.from({ length: 50 }, async () => {
          const lock = await locker.acquire(uniqueKey());
          if (locks.push(lock) === granted) reached();
        });
        if (granted > 0) await enough;
        const closed = locker.close();
        const outcomes = Promise.allSettled(acquires);
        await closed;
        // At once, not a moment later.
        expect(await advisoryLocks()).toEqual([]);
        expect(locks.length).toBeGreaterThanOrEqual(granted);
        expect(locks.every((lock) => !lock.held)).toBe(true);
        const rejected = (await outcomes).filter((outcome) => outcome.status === "rejected");
        expect(rejected).toHaveLength(50 - locks.length);
        expect(rejected.every(({ reason }) => reason instanceof LockerClosedError)).toBe(true);
        // Connections that were still being made come back unused.
        await until(() => pool.waitingCount === 0 && pool.idleCount === pool.totalCount);
        expect(await advisoryLocks()).toEqual([]);
        expect(pool.ending).toBe(false);
        await pool.query("select 1");
      },
    );

    test("causes no warning of a leak if fifty acquires listen for it", async () => {
      const warnings: Error[] = [];
      const onWarning = (warning: Error): unknown => warnings.push(warning);
      process.on("warning", onWarning);
      try {
        await using locker = createLocker({ sessions });
        const release = async (lock: Promise<Lock>): Promise<void> => (await lock).release();
        await Promise.all(Array.from({ length: 50 }, () => release(locker.acquire(uniqueKey()))));
      } finally {
        process.off("warning", onWarning);
      }
      expect(warnings).toEqual([]);
    });

    test("ends every handle, whose methods then reject", async () => {
      const locker = createLocker({ sessions });
      const lock = await locker.acquire(uniqueKey());
      const { signal } = lock;
      const closed = locker.close();
      // In the same step as the call, not when the server has answered.
      expect([lock.held, lock.expired, signal.aborted]).toEqual([false, false, true]);
      expect(signal.reason).toBeInstanceOf(LockLostError);
      expect(signal.reason.cause).toBeInstanceOf(LockerClosedError);
      await closed;
      expect(() => lock.assertHeld()).toThrow(LockNotHeldError);
      await expect(lock.refresh()).rejects.toMatchObject({ code: "LOCK_NOT_HELD", reason: "closed" });
      await expect(lock.release()).rejects.toMatchObject({ code: "LOCK_NOT_HELD", reason: "closed" });
      await lock[Symbol.asyncDispose]();
    });

    test("makes every operation that follows reject, and reserves nothing for it", async () => {
      const pool = createPool();
      const locker = createLocker({ sessions, pool });
      await locker.close();
      for (const late of [locker.acquire(uniqueKey()), locker.tryAcquire(uniqueKey()), locker.ping()]) {
        await expect(late).rejects.toBeInstanceOf(LockerClosedError);
      }
      expect(pool.totalCount).toBe(0);
    });

    test("resolves a second call with the first, and await using after it doesn't throw", async () => {
      await using locker = createLocker({ sessions });
      const first = locker.close();
      expect(locker.close()).toBe(first);
      await first;
      await locker.close();
    });

    test("frees the lock of a holder that has expired", async () => {
      const pool = createPool();
      const locker = createLocker({ sessions, pool });
      const lock = await locker.acquire(uniqueKey(), { ttl: "1s" });
      await until(() => lock.expired);
      expect(await advisoryLocks()).toHaveLength(1);
      await locker.close();
      expect(await advisoryLocks()).toEqual([]);
      await expect(lock.release()).rejects.toMatchObject({ reason: "expired" });
      if (!isOverPostgresJs) expect(pool.idleCount).toBe(1);
    });

    test("leaves a borrowed pool as it is", async () => {
      const pool = createPool();
      const locker = createLocker({ sessions, database: { write: pool } });
      await locker.acquire(uniqueKey());
      await locker.close();
      expect([pool.ending, pool.totalCount, pool.idleCount]).toEqual([false, 1, 1]);
    });

    test("ends within its deadline on a frozen link, and the lock goes", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      const pool = createPool({ connectionString: proxy.url });
      const locker = createLocker({ sessions, pool });
      const lock = await locker.acquire(uniqueKey());
      proxy.freeze({ direction: "toServer" });
      await locker.close();
      expect([lock.held, pool.totalCount]).toEqual([false, 0]);
      expect(await advisoryLocks()).toHaveLength(1);
      // What the server notices once the link is back or has been given up.
      proxy.thaw();
      await until(async () => (await advisoryLocks()).length === 0);
    });

    test("ends a pool of its own that a silent server keeps waiting", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      proxy.freeze();
      const locker = createLocker({ sessions, connectionString: proxy.url, connWaitTimeout: "60ms" });
      await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ reason: "connection-timeout" });
      await locker.close();
    });
  });

  describe("ping", () => {
    test.skipIf(isOverPostgresJs)("needs no free connection of the pool", async () => {
      const pool = createPool({ max: 2 });
      await using locker = createLocker({ sessions, pool });
      await using _held = await locker.acquire(uniqueKey());
      await locker.ping();
      expect([pool.totalCount, pool.waitingCount]).toEqual([1, 0]);
    });

    test("rejects with the caller's own reason on an abort, while it is under way", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      proxy.freeze();
      await using locker = createLocker({
        sessions,
        pool: createPool({ connectionString: proxy.url }),
        connWaitTimeout: "1s",
      });
      const aborting = new AbortController();
      const pinged = locker.ping({ signal: aborting.signal });
      const reason = new Error("enough");
      aborting.abort(reason);
      await expect(pinged).rejects.toBe(reason);
    });

    test("checks both pools if reads go elsewhere", async () => {
      await using server = await startServer();
      const alive = createPool();
      const other = createPool({ connectionString: server.url });
      await using writes = createLocker({ sessions, database: { write: alive, read: other } });
      await using reads = createLocker({ sessions, database: { write: other, read: alive } });
      await Promise.all([writes.ping(), reads.ping()]);
      await server.stop();
      await expect(writes.ping()).rejects.toBeInstanceOf(DatabaseError);
      await expect(reads.ping()).rejects.toBeInstanceOf(DatabaseError);
      // Locks are taken only on `write`.
      await (await writes.acquire(uniqueKey())).release();
    });
  });
});

describe("close", () => {
  test("ends a pool that the locker made", async () => {
    const name = uniqueKey("own");
    const locker = createLocker({
      sessions: "dedicated",
      connectionString: `${databaseUrl()}?application_name=${encodeURIComponent(name)}`,
    });
    await (await locker.acquire(uniqueKey())).release();
    expect(await sessionsOf(name)).toBe(1);
    await locker.close();
    await until(async () => (await sessionsOf(name)) === 0);
  });
});

describe("ping", () => {
  test.skipIf(isOverPostgresJs)("rejects when the server is dead, and when it does not answer", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ sessions: "dedicated", pool, connWaitTimeout: "500ms" });
    await (await locker.acquire(uniqueKey())).release();
    await locker.ping();
    proxy.freeze();
    await expect(locker.ping()).rejects.toBeInstanceOf(DatabaseError);
    proxy.thaw();
    await proxy.refuse();
    // The idle connection in the pool proves nothing.
    expect(pool.idleCount).toBe(1);
    await expect(locker.ping()).rejects.toMatchObject({
      code: "DATABASE_ERROR",
      cause: { code: "ECONNREFUSED" },
    });
    await proxy.accept();
    await locker.ping();
  });
});

async function sessionsOf(name: string): Promise<number> {
  const sql = "select count(*)::int as count from pg_stat_activity where application_name = $1";
  return (await onServer<{ count: number }>(sql, [name]))[0]?.count ?? 0;
}
