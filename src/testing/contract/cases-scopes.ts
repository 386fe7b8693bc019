import assert from "node:assert/strict";
import {
  assertFree,
  assertRejectsWith,
  type Case,
  emptyKey,
  heldElsewhere,
  inTime,
  never,
  pass,
  until,
  waitTimeout,
  whatIsDue,
} from "./fixture.ts";

const error = new Error("the function's own");

/** The ways in which a function fails. */
const failures = [
  (): never => {
    throw error;
  },
  () => Promise.reject(error),
];

/** Cases about `withLock` and `tryWithLock`. */
export const scopeCases: readonly Case[] = [
  {
    says: "withLock returns what its function returns, and releases whatever that does",
    run: async ({ locker, key }) => {
      assert.equal(await locker.withLock(key, async (lock) => lock.key === key && lock.held), true);
      await assertFree(locker, key);
      for (const fail of failures) {
        await assertRejectsWith(locker.withLock(key, fail), error);
        await assertFree(locker, key);
      }
      await assertRejectsWith(
        locker.withLock(key, () => Promise.reject(undefined)),
        undefined,
      );
      await assertFree(locker, key);
    },
  },
  {
    says: "tryWithLock passes on the error of its function, and releases whatever that does",
    run: async ({ locker, key }) => {
      const answer = await locker.tryWithLock(key, async (lock) => lock.key === key && lock.held);
      assert.deepEqual(answer, { acquired: true, value: true });
      await assertFree(locker, key);
      for (const fail of failures) {
        await assertRejectsWith(locker.tryWithLock(key, fail), error);
        await assertFree(locker, key);
      }
    },
  },
  {
    says: "tryWithLock doesn't take an error of its function for a held key",
    run: async ({ locker, key }) => {
      const other = await locker.acquire(`${key}:other`);
      const inner = locker.tryWithLock(key, () => locker.acquire(other.key));
      await assert.rejects(inner, { ...heldElsewhere, key: other.key });
      await assertFree(locker, key);
    },
  },
  {
    says: "withLock and tryWithLock of an empty key are refused, and their function doesn't run",
    run: async ({ locker }) => {
      await assert.rejects(locker.withLock("", never), emptyKey);
      await assert.rejects(locker.tryWithLock("", never), emptyKey);
    },
  },
  {
    says: "a held key is held inside withLock, too, and a refused withLock doesn't run its function",
    run: async ({ locker, key }) => {
      await locker.withLock(key, async (mine) => {
        await locker.ping();
        assert.equal(await locker.tryAcquire(key), undefined);
        assert(mine.held);
      });
      const lock = await locker.acquire(key);
      await assert.rejects(locker.withLock(key, never), heldElsewhere);
      assert(lock.held);
    },
  },
  {
    says: "tryWithLock returns without running its function if the lock is held",
    letsPass: "brief",
    run: async ({ locker, key, brief }) => {
      assert.deepEqual(await locker.tryWithLock(key, () => 42), { acquired: true, value: 42 });
      await locker.acquire(key);
      assert.deepEqual(await locker.tryWithLock(key, never), { acquired: false });
      assert.deepEqual(await locker.tryWithLock(key, never, { wait: brief }), { acquired: false });
    },
  },
  {
    says: "a withLock that waits runs its function when the holder has released, and not before",
    letsPass: "brief",
    run: async ({ locker, key, brief, patience }) => {
      const lock = await locker.acquire(key);
      let ran = false;
      const waiting = locker.withLock(
        key,
        (mine) => {
          ran = true;
          return [mine.held, lock.held];
        },
        { wait: patience },
      );
      // This call stands behind the other in line: by the time its wait has passed, the other's function could have run.
      assert.equal(await locker.tryAcquire(key, { wait: brief }), undefined);
      await whatIsDue();
      assert.deepEqual([ran, lock.held], [false, true]);
      await lock.release();
      assert.deepEqual(await waiting, [true, false]);
    },
  },
  {
    says: "a withLock whose wait passes, or is aborted, never runs its function",
    letsPass: "brief",
    run: async ({ locker, key, brief }) => {
      const lock = await locker.acquire(key);
      await assert.rejects(locker.withLock(key, never, { wait: brief }), { ...waitTimeout, key });
      const aborting = new AbortController();
      const waiting = locker.withLock(key, never, { wait: true, signal: aborting.signal });
      aborting.abort(error);
      await assertRejectsWith(waiting, error);
      await lock.release();
      await assertFree(locker, key);
    },
  },
  {
    says: "withLock keeps its lock past the TTL",
    letsPass: "spare",
    run: async (given) => {
      const { locker, key, spare } = given;
      const held = locker.withLock(
        key,
        async (lock) => {
          await pass(given, spare);
          await assert.rejects(locker.acquire(key), heldElsewhere);
          return lock.held && !lock.signal.aborted;
        },
        { ttl: spare },
      );
      assert.equal(await held, true);
    },
  },
  {
    says: "withLock rejects as soon as its lock lapses, whatever its function does",
    letsPass: "brief",
    run: async (given) => {
      const { locker, key, brief } = given;
      const forEver = () => new Promise(() => {});
      let reason: { code?: string } | undefined;
      const running = inTime(given, () => locker.withLock(key, forEver, { ttl: brief, autoRefresh: false }));
      running.catch((loss) => {
        reason = loss;
      });
      await until(given, () => reason !== undefined, "withLock rejects");
      assert.equal(reason?.code, "LOCK_EXPIRED");
    },
  },
];
