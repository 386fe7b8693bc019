import { describe, expect, test } from "vitest";
import type { Lock, PostgresLocker } from "../../src/index.ts";
import { advisoryLocks, holdersOf, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";

// With TTLs that the server enforces, a session lives as long as the smallest TTL on it, so a lock with a short TTL must not endanger a
// lock with a long one.

function block(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

const enforced = (): PostgresLocker => createLocker({ ttlEnforcement: "server" });

async function longLocks(locker: PostgresLocker, mode?: "shared"): Promise<Lock[]> {
  const options = { ttl: "10m", ...(mode && { mode }) };
  return await Promise.all(Array.from({ length: 50 }, () => locker.acquire(uniqueKey(), options)));
}

const lost = (locks: readonly Lock[]): Lock[] => locks.filter((lock) => !lock.held || lock.signal.aborted);

async function sessionsOf(locks: readonly Lock[]): Promise<Set<number>> {
  const ids = new Set(locks.map(({ id }) => id));
  return new Set((await advisoryLocks()).filter(({ id }) => ids.has(id)).map(({ pid }) => pid));
}

describe("locks of ten minutes survive", () => {
  test("one of 250 ms beside them, and a block of the event loop that is longer", async () => {
    await using locker = enforced();
    const long = await longLocks(locker);
    const short = await locker.acquire(uniqueKey(), { ttl: 250 });
    block(400);
    expect(short.held).toBe(false);
    await expect(short.release()).rejects.toMatchObject({ code: "LOCK_NOT_HELD" });
    expect(lost(long)).toEqual([]);
  });

  test.each([20, 5, 1])("a hundred tries with a TTL of %i ms, most of them refused", async (ttl) => {
    await using locker = enforced();
    await using other = enforced();
    const long = await longLocks(locker);
    const key = uniqueKey();
    const theirs = await other.acquire(key, { ttl: "10m" });
    for (let round = 0; round < 100; round += 1) {
      const lock = await locker
        .tryAcquire(round % 10 === 0 ? uniqueKey() : key, { ttl })
        .catch(() => undefined);
      await lock?.release().catch(() => {});
      if (round % 10 === 0) block(2 * ttl);
    }
    expect(lost(long)).toEqual([]);
    await theirs.release();
  });

  test("a try for one of their own keys with a TTL of 5 ms", async () => {
    await using locker = enforced();
    const long = await longLocks(locker);
    for (const { key } of long) expect(await locker.tryAcquire(key, { ttl: 5 })).toBeUndefined();
    block(50);
    expect(lost(long)).toEqual([]);
  });

  test("the loss of the session of short ones, by a stall", async () => {
    await using locker = enforced();
    const long = await longLocks(locker);
    const short = await Promise.all(
      Array.from({ length: 50 }, () => locker.acquire(uniqueKey(), { ttl: 300, autoRefresh: true })),
    );
    block(600);
    expect(lost(short)).toHaveLength(50);
    expect(lost(long)).toEqual([]);
    await locker.acquire(uniqueKey(), { ttl: 300 });
  });
});

describe("sessions", () => {
  test("are shared by TTLs within a factor of four, and no others", async () => {
    await using locker = enforced();
    const ttls = [1_100, 2_000, 4_000, 20_000, 60_000, 240_000, 1_000_000];
    const locks = await Promise.all(ttls.map((ttl) => locker.acquire(uniqueKey(), { ttl })));
    const pids = (await Promise.all(locks.map(({ id }) => holdersOf(id)))).map(([pid]) => pid);
    for (const [at, ttl] of ttls.entries()) {
      for (const [beside, other] of ttls.entries()) {
        if (pids[at] === pids[beside])
          expect(Math.max(ttl, other) / Math.min(ttl, other)).toBeLessThanOrEqual(4);
      }
    }
    expect(new Set(pids).size).toBeLessThanOrEqual(6);
    await Promise.all(locks.map((lock) => lock.release()));
  });

  test("are one, whatever the TTLs, if the server enforces none", async () => {
    await using locker = createLocker();
    const locks = await Promise.all(
      [5_000, 60_000, 600_000].map((ttl) => locker.acquire(uniqueKey(), { ttl })),
    );
    expect((await sessionsOf(locks)).size).toBe(1);
    await Promise.all(locks.map((lock) => lock.release()));
  });
});

describe("a lock that changes its class", () => {
  test.each([
    ["shorter", "10m", "400ms"],
    ["longer", "400ms", "10m"],
  ])("by a refresh to a %s TTL is held, and can be refreshed and released", async (_, before, after) => {
    await using locker = enforced();
    const lock = await locker.acquire(uniqueKey(), { ttl: before });
    await lock.refresh(after);
    expect([lock.held, await holdersOf(lock.id)]).toEqual([true, [expect.any(Number)]]);
    await lock.refresh(before);
    expect(lock.held).toBe(true);
    await lock.release();
    expect(await holdersOf(lock.id)).toEqual([]);
  });

  test("to a shorter one takes none of ten minutes with it when that passes", async () => {
    await using locker = enforced();
    const long = await longLocks(locker);
    const lock = await locker.acquire(uniqueKey(), { ttl: "10m" });
    await lock.refresh("200ms");
    block(500);
    expect(lock.held).toBe(false);
    expect(lost(long)).toEqual([]);
  });

  test("a reader of a short TTL beside one of ten minutes endangers no other lock", async () => {
    await using locker = enforced();
    const long = await longLocks(locker, "shared");
    const reader = await locker.acquire(long[0]?.key ?? "", { mode: "shared", ttl: "200ms" });
    block(500);
    expect(reader.held).toBe(false);
    expect(lost(long)).toEqual([]);
  });
});
