import assert from "node:assert/strict";
import {
  assertFree,
  type Case,
  type Given,
  heldElsewhere,
  inTime,
  lapsed,
  notHeld,
  pass,
  until,
} from "./fixture.ts";

/** Waits until the clocks show another time, even if they are coarse. */
async function untilLater(given: Given): Promise<void> {
  const later = Date.now() + 20;
  await until(given, () => Date.now() > later, "the clock goes on");
}

/** Cases about the TTL of a lock: refreshes before it passes, and what happens to the lock afterwards. */
export const expiryCases: readonly Case[] = [
  {
    says: "a handle says until when its holder may rely on the lock",
    run: async (given) => {
      const before = Date.now();
      const lock = await given.locker.acquire(given.key, { ttl: "1m" });
      const { remaining, expiresAt } = lock;
      assert(remaining > 0 && remaining <= 60_000, `${remaining} ms remain`);
      assert(expiresAt instanceof Date);
      // Holders may stop a moment before the TTL has passed.
      assert(expiresAt.getTime() > before + 50_000, `it expires at ${expiresAt}`);
      assert(expiresAt.getTime() <= Date.now() + 60_000, `it expires at ${expiresAt}`);
      await until(given, () => lock.remaining < remaining, "the remaining time gets less");
      await lock.refresh("2m");
      assert(lock.remaining > 60_000, `${lock.remaining} ms remain`);
      const refreshed = lock.expiresAt;
      assert(refreshed.getTime() > expiresAt.getTime() + 50_000, `it expires at ${refreshed}`);
      await lock.release();
      assert.equal(lock.remaining, 0);
      const { expiresAt: last } = lock;
      await untilLater(given);
      assert.deepEqual(lock.expiresAt, last);
    },
  },
  {
    says: "a refresh without a TTL starts the same TTL again",
    run: async (given) => {
      const lock = await given.locker.acquire(given.key, { ttl: "1m" });
      const { expiresAt } = lock;
      await untilLater(given);
      await lock.refresh();
      assert(lock.expiresAt > expiresAt, `it expires at ${lock.expiresAt}, as before`);
      assert.equal(lock.ttl, 60_000);
    },
  },
  {
    says: "a refreshed lock outlives its first TTL",
    letsPass: "spare",
    run: async (given) => {
      const { locker, key, spare } = given;
      const lock = await locker.acquire(key, { ttl: spare });
      await lock.refresh("1m");
      await pass(given, spare);
      assert.deepEqual([lock.ttl, lock.held, lock.expired], [60_000, true, false]);
      await assert.rejects(locker.acquire(key), heldElsewhere);
      await lock.release();
    },
  },
  {
    says: "autoRefresh keeps a lock past its TTL, until it is released",
    letsPass: "spare",
    run: async (given) => {
      const { locker, key, spare } = given;
      const lock = await locker.acquire(key, { ttl: spare, autoRefresh: true });
      await pass(given, spare);
      assert.deepEqual([lock.held, lock.expired, lock.signal.aborted], [true, false, false]);
      await assert.rejects(locker.acquire(key), heldElsewhere);
      await lock.release();
      await assertFree(locker, key);
    },
  },
  {
    says: "the signal stays quiet after a release, also past the TTL",
    letsPass: "spare",
    run: async (given) => {
      const lock = await given.locker.acquire(given.key, { ttl: given.spare });
      const { signal } = lock;
      await lock.release();
      await pass(given, given.spare);
      assert.deepEqual([signal.aborted, lock.expired], [false, false]);
      assert.throws(() => lock.assertHeld(), notHeld("released"));
    },
  },
  {
    says: "a lock that lapses aborts its signal, and is not held",
    letsPass: "brief",
    run: async (given) => {
      const lock = await inTime(given, () => given.locker.acquire(given.key, { ttl: given.brief }));
      const { signal } = lock;
      await until(given, () => signal.aborted, "the signal aborts");
      assert.equal(signal.reason.code, "LOCK_EXPIRED");
      assert.deepEqual([lock.held, lock.expired, lock.remaining], [false, true, 0]);
      assert.throws(() => lock.assertHeld(), notHeld("expired"));
    },
  },
  {
    says: "the release of a lapsed lock rejects as expired, and frees the key",
    letsPass: "brief",
    run: async (given) => {
      const lock = await lapsed(given);
      await assert.rejects(lock.release(), notHeld("expired"));
      await assertFree(given.locker, given.key);
    },
  },
  {
    says: "the refresh of a lapsed lock rejects as expired",
    letsPass: "brief",
    run: async (given) => {
      const lock = await lapsed(given);
      await assert.rejects(lock.refresh("1m"), notHeld("expired"));
      assert.deepEqual([lock.held, lock.expired], [false, true]);
      await assertFree(given.locker, given.key);
    },
  },
  {
    says: "the disposal of a lapsed lock doesn't throw, and frees the key",
    letsPass: "brief",
    run: async (given) => {
      await (await lapsed(given))[Symbol.asyncDispose]();
      await assertFree(given.locker, given.key);
    },
  },
  {
    says: "a lapsed lock goes to the next caller",
    unless: "lapsed-lock-stays",
    letsPass: "brief",
    run: async (given) => {
      const { locker, key, patience } = given;
      const lock = await lapsed(given);
      // A holder stops relying on its lock a moment before the lock is free.
      const next = await locker.acquire(key, { wait: patience });
      await assert.rejects(lock.release(), notHeld("expired"));
      assert(next.held);
      await assert.rejects(locker.acquire(key), heldElsewhere);
    },
  },
];
