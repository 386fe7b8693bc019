import { describe, expect, test } from "vitest";
import { LockExpiredError, type PostgresLocker } from "../../src/index.ts";
import { advisoryLocks, createPool, databaseUrl, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { blockFor, sortedIds, witnessOf } from "../support/shared-locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// A TTL that the server enforces belongs to the session: it is the smallest of its locks' TTLs.

describe("a TTL that the server enforces", () => {
  test("is the smallest of its session, so holders rely on no lock for longer", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = enforced(createPool({ connectionString: proxy.url }));
    await using other = enforced();
    const short = await locker.acquire(uniqueKey(), { ttl: 700, autoRefresh: true });
    const long = await locker.acquire(uniqueKey(), { ttl: 1_000, autoRefresh: true });
    const signals = [short.signal, long.signal];
    proxy.freeze();
    for (const lock of [long, short]) {
      await using _next = await until(() => other.tryAcquire(lock.key), { interval: 1 });
      expect([short.held, long.held]).toEqual([false, false]);
    }
    await until(() => signals.every((signal) => signal.aborted));
  });

  test("ends all locks of its session by the clock alone", async () => {
    await using locker = enforced();
    await using other = enforced();
    const short = await locker.acquire(uniqueKey(), { ttl: 700, autoRefresh: true });
    const long = await locker.acquire(uniqueKey(), { ttl: 1_000, autoRefresh: true });
    blockFor(1_400);
    expect([short.held, long.held]).toEqual([false, false]);
    expect(() => long.assertHeld()).toThrow();
    await using _next = await until(() => other.tryAcquire(long.key));
    await expect(long.release()).rejects.toMatchObject({ code: "LOCK_NOT_HELD" });
    await expect(short.release()).rejects.toMatchObject({ code: "LOCK_NOT_HELD" });
  });

  test("is kept by the locker, whichever holders refresh", async () => {
    await using locker = enforced();
    const short = await locker.acquire(uniqueKey(), { ttl: 700, autoRefresh: true });
    const long = await locker.acquire(uniqueKey(), { ttl: "30s" });
    const witness = await witnessOf(2_500);
    await until(() => !witness.held);
    expect([short.held, long.held, long.signal.aborted]).toEqual([true, true, false]);
    await short.release();
    await long.refresh();
    await long.release();
  });

  test("that lapses frees only its own lock", async () => {
    await using locker = enforced();
    await using other = enforced();
    const lapsing = await locker.acquire(uniqueKey(), { ttl: 700 });
    const { signal } = lapsing;
    const refreshed = await locker.acquire(uniqueKey(), { ttl: 700, autoRefresh: true });
    const long = await locker.acquire(uniqueKey(), { ttl: "30s" });
    const next = await until(() => other.tryAcquire(lapsing.key), { interval: 1 });
    expect(lapsing.held).toBe(false);
    expect(signal.reason).toBeInstanceOf(LockExpiredError);
    await expect(lapsing.release()).rejects.toMatchObject({ reason: "expired" });
    expect([refreshed, long].map((lock) => [lock.held, lock.signal.aborted])).toEqual([
      [true, false],
      [true, false],
    ]);
    expect(sortedIds(await advisoryLocks())).toEqual(sortedIds([next, refreshed, long]));
  });

  test("no longer binds a session once its lock is released", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = enforced(createPool({ connectionString: proxy.url }));
    const short = await locker.acquire(uniqueKey(), { ttl: 700 });
    const long = await locker.acquire(uniqueKey(), { ttl: "30s" });
    await short.release();
    await long.refresh();
    proxy.freeze();
    const witness = await witnessOf(1_500);
    await until(() => !witness.held);
    expect(long.held).toBe(true);
    proxy.thaw();
    await long.refresh();
  });

  test("that was short fails no acquire that comes after its lock was released", async () => {
    await using locker = enforced();
    for (let round = 0; round < 3; round++) {
      const lock = await locker.acquire(uniqueKey(), { ttl: 300 });
      await lock.release();
      // The session waits for the next lock, and the server for the next statement.
      blockFor(600);
      await (await locker.acquire(uniqueKey(), { ttl: "30s" })).release();
    }
  });

  test("that has passed unseen fails no acquire of another lock", async () => {
    await using locker = enforced();
    const lock = await locker.acquire(uniqueKey(), { ttl: 300 });
    blockFor(600);
    await using next = await locker.acquire(uniqueKey(), { ttl: "30s" });
    expect([lock.held, next.held]).toEqual([false, true]);
  });

  test("that a refresh makes shorter is the session's from then on", async () => {
    await using locker = enforced();
    const lock = await locker.acquire(uniqueKey(), { ttl: "30s" });
    await lock.refresh(250);
    const { signal } = lock;
    await using other = enforced();
    await using _next = await until(() => other.tryAcquire(lock.key), { interval: 1 });
    expect(lock.held).toBe(false);
    await until(() => signal.aborted);
  });
});

function enforced(pool = createPool()): PostgresLocker {
  return createLocker({ pool, sessions: "shared", ttlEnforcement: "server" });
}
