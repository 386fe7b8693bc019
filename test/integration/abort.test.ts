import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import { type Lock, LockNotAcquiredError, lockId } from "../../src/index.ts";
import {
  advisoryLocks,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
} from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { clientsOf, observedPool } from "../support/observed-pool.ts";
import { sessionModes } from "../support/session-modes.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// An abort rejects with the caller's own reason, at any point of an acquire, and leaves nothing behind.

const reason = new Error("the caller's own reason");

describe.each(sessionModes)("with %s sessions", (sessions) => {
  describe("an acquire that is aborted", () => {
    test("before it starts reserves nothing", async () => {
      const pool = createPool();
      await using locker = createLocker({ sessions, pool });
      const signal = AbortSignal.abort(reason);
      await expect(locker.acquire(uniqueKey(), { signal })).rejects.toBe(reason);
      await expect(locker.tryAcquire(uniqueKey(), { signal })).rejects.toBe(reason);
      expect(pool.totalCount).toBe(0);
    });

    test("in the step in which it starts holds nothing", async () => {
      const pool = createPool();
      await using locker = createLocker({ sessions, pool });
      const aborting = new AbortController();
      const acquired = locker.acquire(uniqueKey(), { signal: aborting.signal });
      aborting.abort(reason);
      await expect(acquired).rejects.toBe(reason);
      await until(() => pool.totalCount === 1 && pool.idleCount === 1);
      expect(await advisoryLocks()).toEqual([]);
    });

    test("after it was granted keeps its lock", async () => {
      await using locker = createLocker({ sessions });
      const aborting = new AbortController();
      await using lock = await locker.acquire(uniqueKey(), { signal: aborting.signal });
      expect(getEventListeners(aborting.signal, "abort")).toEqual([]);
      aborting.abort(reason);
      await lock.refresh();
      expect([lock.held, lock.signal.aborted]).toEqual([true, false]);
    });
  });

  test("a storm of 2,000 acquires, aborted at random moments, leaves nothing", async () => {
    const pool = createPool({ max: 8 });
    const locker = createLocker({ sessions, pool });
    const keys = Array.from({ length: 5 }, () => uniqueKey());
    const random = mulberry32(20_240_517);
    const signals: AbortSignal[] = [];
    const counts = { granted: 0, aborted: 0, refused: 0 };
    const one = async (i: number): Promise<void> => {
      const aborting = new AbortController();
      signals.push(aborting.signal);
      const [moment, delay] = [random(), random() * 12];
      // From the same step to some milliseconds later: before, during and after the round trip to the server.
      if (moment < 0.2) queueMicrotask(() => aborting.abort(reason));
      else if (moment < 0.4) setImmediate(() => aborting.abort(reason));
      else if (moment < 0.85) setTimeout(() => aborting.abort(reason), delay);
      let lock: Lock;
      try {
        lock = await locker.acquire(keys[i % keys.length] ?? "", { signal: aborting.signal });
      } catch (error) {
        if (error === reason) counts.aborted += 1;
        else if (error instanceof LockNotAcquiredError && error.reason === "held") counts.refused += 1;
        else throw error;
        return;
      }
      counts.granted += 1;
      // Too late for the acquires that were not aborted on the way.
      aborting.abort(reason);
      expect(lock.held).toBe(true);
      await lock.release();
    };
    for (let start = 0; start < 2_000; start += 40) {
      await Promise.all(Array.from({ length: 40 }, (_, i) => one(start + i)));
    }
    await until(() => pool.totalCount === pool.idleCount && pool.waitingCount === 0);
    expect(await advisoryLocks()).toEqual([]);
    expect(signals.flatMap((signal) => getEventListeners(signal, "abort"))).toEqual([]);
    // Both outcomes must have occurred, whatever the load of the machine; otherwise the storm proved little.
    expect([counts.granted > 20, counts.aborted > 500]).toEqual([true, true]);
    expect(counts.granted + counts.aborted + counts.refused).toBe(2_000);
    await locker.close();
  });

  describe("a refresh that is aborted", () => {
    test("before it starts leaves the lock as it was", async () => {
      await using locker = createLocker({ sessions });
      await using lock = await locker.acquire(uniqueKey());
      await expect(lock.refresh("1h", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
      expect([lock.held, lock.ttl]).toEqual([true, 30_000]);
    });

    test("while it is under way leaves the lock held", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      await using locker = createLocker({ sessions, pool: createPool({ connectionString: proxy.url }) });
      await using lock = await locker.acquire(uniqueKey());
      proxy.freeze({ direction: "toClient" });
      const aborting = new AbortController();
      const refreshed = lock.refresh("1m", { signal: aborting.signal });
      aborting.abort(reason);
      await expect(refreshed).rejects.toBe(reason);
      expect(getEventListeners(aborting.signal, "abort")).toEqual([]);
      proxy.thaw();
      await lock.refresh();
      expect([lock.held, lock.signal.aborted]).toEqual([true, false]);
      expect(await holdersOf(lock.id)).toHaveLength(1);
    });
  });
});

describe("an acquire that is aborted", () => {
  test("while it waits for a connection sends nothing once it gets one", async () => {
    const pool = createPool({ max: 1 });
    const clients = clientsOf(pool);
    await using locker = createLocker({ sessions: "dedicated", pool });
    const held = await locker.acquire(uniqueKey());
    const aborting = new AbortController();
    const acquired = locker.acquire(uniqueKey(), { signal: aborting.signal });
    expect(pool.waitingCount).toBe(1);
    aborting.abort(reason);
    await expect(acquired).rejects.toBe(reason);
    expect(getEventListeners(aborting.signal, "abort")).toEqual([]);
    await held.release();
    await until(() => pool.idleCount === 1 && pool.waitingCount === 0);
    expect(clients).toHaveLength(1);
    expect(await lastStatement(clients)).toContain("pg_advisory_unlock");
  });

  test("in any microtask after it got a connection sends nothing any more", async () => {
    const { pool, statements } = observedPool();
    await pool.query("select");
    await using locker = createLocker({ sessions: "dedicated", pool });
    for (let depth = 0; depth < 20; depth += 1) {
      const aborting = new AbortController();
      let sentBefore: number | undefined;
      pool.once("acquire", async () => {
        for (let left = depth; left > 0; left -= 1) await undefined;
        sentBefore = statements.length;
        aborting.abort(reason);
      });
      const before = statements.length;
      const acquired = locker.acquire(uniqueKey(), { signal: aborting.signal });
      await expect(acquired).rejects.toBe(reason);
      await until(() => pool.idleCount === pool.totalCount);
      if (sentBefore === before)
        expect({ depth, sent: statements.slice(before) }).toEqual({ depth, sent: [] });
    }
  });

  test("while its connection is being made sends nothing once it is ready", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    const clients = clientsOf(pool);
    await using locker = createLocker({ sessions: "dedicated", pool });
    proxy.freeze();
    const aborting = new AbortController();
    const acquired = locker.acquire(uniqueKey(), { signal: aborting.signal });
    await until(() => proxy.size === 1);
    aborting.abort(reason);
    await expect(acquired).rejects.toBe(reason);
    proxy.thaw();
    await until(() => pool.totalCount === 1 && pool.idleCount === 1);
    expect(await lastStatement(clients)).toBe("");
  });

  test("while its statement is under way releases the lock that it is granted", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    const clients = clientsOf(pool);
    await using locker = createLocker({ sessions: "dedicated", pool });
    await (await locker.acquire(uniqueKey())).release();
    proxy.freeze({ direction: "toServer" });
    const aborting = new AbortController();
    const acquired = locker.acquire(uniqueKey(), { signal: aborting.signal });
    await until(() => pool.idleCount === 0);
    aborting.abort(reason);
    await expect(acquired).rejects.toBe(reason);
    proxy.thaw();
    await until(() => pool.idleCount === 1);
    expect(await advisoryLocks()).toEqual([]);
    expect(await lastStatement(clients)).toContain("pg_advisory_unlock");
  });

  test("while the answer is under way releases the lock that it was granted", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ sessions: "dedicated", pool });
    await (await locker.acquire(uniqueKey())).release();
    const key = uniqueKey();
    proxy.freeze({ direction: "toClient" });
    const aborting = new AbortController();
    const acquired = locker.acquire(key, { signal: aborting.signal });
    await until(async () => (await holdersOf(lockId(0, key))).length === 1);
    aborting.abort(reason);
    await expect(acquired).rejects.toBe(reason);
    expect(await advisoryLocks()).toHaveLength(1);
    proxy.thaw();
    await until(() => pool.idleCount === 1);
    expect(await advisoryLocks()).toEqual([]);
    expect(pool.totalCount).toBe(1);
  });

  test("and whose answer never comes loses its session at the deadline", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ sessions: "dedicated", pool });
    await (await locker.acquire(uniqueKey())).release();
    const key = uniqueKey();
    proxy.freeze({ direction: "toClient" });
    const aborting = new AbortController();
    const acquired = locker.acquire(key, { signal: aborting.signal, ttl: 400 });
    await until(async () => (await holdersOf(lockId(0, key))).length === 1);
    aborting.abort(reason);
    await expect(acquired).rejects.toBe(reason);
    await until(() => pool.totalCount === 0);
    await until(async () => (await advisoryLocks()).length === 0);
  });
});

/** Returns the last statement of the client that was made last. */
async function lastStatement(clients: ReturnType<typeof clientsOf>): Promise<string> {
  const [row] = await onServer<{ query: string }>("select query from pg_stat_activity where pid = $1", [
    clients.at(-1)?.processID,
  ]);
  return row?.query ?? "no such session";
}

/** A small generator of random numbers from 0 to 1, which are the same in each run. */
function mulberry32(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
