import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import { type Lock, LockNotAcquiredError, lockId } from "../../src/index.ts";
import { advisoryLocks, createPool, databaseUrl, holdersOf, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { observedPool } from "../support/observed-pool.ts";
import { acquireMany, sortedIds } from "../support/shared-locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// An acquire that is aborted at any point on its way to a shared session leaves nothing, and harms nobody on that session.

const reason = new Error("the caller's own reason");

describe("an acquire that is aborted", () => {
  test("while the session is being opened holds nothing, and the session goes back", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    proxy.freeze();
    const aborting = new AbortController();
    const acquired = locker.acquire(uniqueKey(), { signal: aborting.signal });
    await until(() => proxy.size === 1);
    aborting.abort(reason);
    await expect(acquired).rejects.toBe(reason);
    expect(getEventListeners(aborting.signal, "abort")).toEqual([]);
    proxy.thaw();
    await until(() => pool.totalCount === 1 && pool.idleCount === 1);
    expect(await advisoryLocks()).toEqual([]);
  });

  test("while the session is being opened keeps nobody else from it", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    proxy.freeze();
    const aborting = new AbortController();
    const acquired = locker.acquire(uniqueKey(), { signal: aborting.signal });
    const other = locker.acquire(uniqueKey());
    await until(() => proxy.size === 1);
    aborting.abort(reason);
    await expect(acquired).rejects.toBe(reason);
    proxy.thaw();
    const lock = await other;
    expect(sortedIds(await advisoryLocks())).toEqual([lock.id]);
    await lock.release();
  });

  test("while it waits for a statement under way is never sent", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = observedPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    const lock = await locker.acquire(uniqueKey());
    proxy.freeze();
    statements.length = 0;
    const refreshed = lock.refresh();
    await until(() => statements.length === 1);
    const aborting = new AbortController();
    const acquired = locker.acquire(uniqueKey(), { signal: aborting.signal });
    await new Promise(setImmediate);
    aborting.abort(reason);
    await expect(acquired).rejects.toBe(reason);
    proxy.thaw();
    await refreshed;
    await lock.release();
    expect(statements).toHaveLength(2);
  });

  test.each(["toServer", "toClient"] as const)(
    "with what goes %s on its way frees what it is granted, and no other lock",
    async (direction) => {
      await using proxy = await TcpProxy.start(databaseUrl());
      const { pool, statements } = observedPool({ connectionString: proxy.url });
      await using locker = createLocker({ pool, sessions: "shared" });
      const others = await acquireMany(locker, 5);
      proxy.freeze({ direction });
      statements.length = 0;
      const key = uniqueKey();
      const aborting = new AbortController();
      const acquired = locker.acquire(key, { signal: aborting.signal });
      await until(() => statements.length === 1);
      if (direction === "toClient") await until(async () => (await holdersOf(lockId(0, key))).length === 1);
      aborting.abort(reason);
      await expect(acquired).rejects.toBe(reason);
      expect(getEventListeners(aborting.signal, "abort")).toEqual([]);
      proxy.thaw();
      await until(() => statements.length === 2);
      await until(async () => (await holdersOf(lockId(0, key))).length === 0);
      await Promise.all(others.map((lock) => lock.refresh()));
      expect(others.every((lock) => lock.held && !lock.signal.aborted)).toBe(true);
      expect(sortedIds(await advisoryLocks())).toEqual(sortedIds(others));
      await (await locker.acquire(key)).release();
    },
  );

  test("as one more shared holder leaves the first one with the lock", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = observedPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
    const key = uniqueKey();
    const lock = await locker.acquire(key, { mode: "shared" });
    proxy.freeze();
    statements.length = 0;
    const aborting = new AbortController();
    const acquired = locker.acquire(key, { mode: "shared", signal: aborting.signal });
    await until(() => statements.length === 1);
    aborting.abort(reason);
    await expect(acquired).rejects.toBe(reason);
    proxy.thaw();
    await lock.refresh();
    expect(await advisoryLocks()).toHaveLength(1);
    await lock.release();
    expect(await advisoryLocks()).toEqual([]);
  });

  test("2,000 times by 50 callers leaves no lock, session, listener or timer", async () => {
    const timersBefore = timers();
    const pool = createPool({ max: 4 });
    const locker = createLocker({ pool, sessions: "shared", maxLocksPerSession: 4 });
    const keys = Array.from({ length: 5 }, () => uniqueKey());
    const signals: AbortSignal[] = [];
    const counts = { granted: 0, aborted: 0, refused: 0 };
    const one = async (i: number): Promise<void> => {
      const aborting = new AbortController();
      signals.push(aborting.signal);
      const moment = Math.random();
      if (moment < 0.2) queueMicrotask(() => aborting.abort(reason));
      else if (moment < 0.4) setImmediate(() => aborting.abort(reason));
      else if (moment < 0.85) setTimeout(() => aborting.abort(reason), Math.random() * 6);
      const mode = i % 3 === 0 ? "shared" : "exclusive";
      const wait = i % 2 === 0 ? {} : { wait: "10s" };
      let lock: Lock;
      try {
        lock = await locker.acquire(keys[i % keys.length] ?? "", { signal: aborting.signal, mode, ...wait });
      } catch (error) {
        if (error === reason) counts.aborted += 1;
        else if (error instanceof LockNotAcquiredError) counts.refused += 1;
        else throw error;
        return;
      }
      counts.granted += 1;
      aborting.abort(reason);
      expect(lock.held).toBe(true);
      await lock.release();
    };
    let next = 0;
    const caller = async (): Promise<void> => {
      while (next < 2_000) await one(next++);
    };
    await Promise.all(Array.from({ length: 50 }, caller));
    await until(async () => (await advisoryLocks()).length === 0);
    await until(() => pool.totalCount === pool.idleCount && pool.waitingCount === 0);
    expect(signals.flatMap((signal) => getEventListeners(signal, "abort"))).toEqual([]);
    expect(counts.granted + counts.aborted + counts.refused).toBe(2_000);
    expect([counts.granted > 20, counts.aborted > 200]).toEqual([true, true]);
    await locker.close();
    await pool.end();
    await until(() => timers() <= timersBefore);
  });
});

function timers(): number {
  return process.getActiveResourcesInfo().filter((resource) => resource === "Timeout").length;
}
