import { describe, expect, test } from "vitest";
import { LockNotAcquiredError, lockId } from "../../src/index.ts";
import { advisoryLocks, createPool } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";

// Two real keys of namespace 0 that have the same FNV-1a hash.
const [one, other] = ["amf2oiyzezvcf", "msmbnqwkrawwd"];

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test("a key whose id another key of the locker has is refused by name", async () => {
    const pool = createPool();
    await using locker = createLocker({ sessions, pool });
    const lock = await locker.acquire(one);
    const refused = await locker.acquire(other).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(LockNotAcquiredError);
    expect(refused).toMatchObject({ reason: "id-collision", key: other, otherKey: one });
    expect((refused as Error).message).toContain(one);
    expect((refused as Error).message).toContain(other);
    // The keys are at fault, not a holder that will go away.
    await expect(locker.tryAcquire(other)).rejects.toMatchObject({ reason: "id-collision" });
    // The same key is simply held.
    await expect(locker.acquire(one)).rejects.toMatchObject({ reason: "held" });
    expect(await advisoryLocks()).toHaveLength(1);
    expect(lock.held).toBe(true);
    expect(pool.totalCount - pool.idleCount).toBe(1);
  });

  test("a key is refused by name while a transaction has the colliding one", async () => {
    await using locker = createLocker({ sessions });
    await locker.withTransaction(one, async () => {
      const refused = { reason: "id-collision", key: other, otherKey: one };
      await expect(locker.acquire(other)).rejects.toMatchObject(refused);
      await expect(locker.withTransaction(other, () => {})).rejects.toMatchObject(refused);
    });
    await locker.withTransaction(other, () => {});
  });

  test("a key is free again once the colliding one is released", async () => {
    await using locker = createLocker({ sessions });
    await (await locker.acquire(one)).release();
    await using lock = await locker.acquire(other);
    expect(lock.held).toBe(true);
  });

  test("another locker doesn't know the keys, and says held", async () => {
    await using locker = createLocker({ sessions });
    await using stranger = createLocker({ sessions });
    await using _lock = await locker.acquire(one);
    await expect(stranger.acquire(other)).rejects.toMatchObject({ reason: "held" });
  });

  test("in another namespace the two keys don't meet", async () => {
    await using locker = createLocker({ sessions, namespace: 1 });
    await using first = await locker.acquire(one);
    await using second = await locker.acquire(other);
    expect([first.held, second.held]).toEqual([true, true]);
  });
});

test("the two keys have one id", () => {
  expect(lockId(0, one)).toBe(6714566679396942694n);
  expect(lockId(0, other)).toBe(lockId(0, one));
});
