import assert from "node:assert/strict";
import type { AcquireOptions, Locker } from "../../contract/locker.ts";
import { assertFree, type Case, heldElsewhere, notHeld } from "./fixture.ts";

/** Ways to take a lock and to give it back at once. */
const ways: Record<string, (locker: Locker, key: string, options: AcquireOptions) => Promise<unknown>> = {
  acquire: async (locker, key, options) => await (await locker.acquire(key, options)).release(),
  tryAcquire: async (locker, key, options) => await (await locker.tryAcquire(key, options))?.release(),
  disposal: async (locker, key, options) => await (await locker.acquire(key, options))[Symbol.asyncDispose](),
  withLock: (locker, key, options) => locker.withLock(key, () => {}, options),
  tryWithLock: (locker, key, options) => locker.tryWithLock(key, () => {}, options),
  wrapWithLock: (locker, key, options) => locker.wrapWithLock(key, () => {}, options)(),
};

/** Cases about locks that are held for a minimum time. */
export const holdAtLeastCases: readonly Case[] = [
  {
    says: "a lock with holdAtLeast keeps others out after an early release, which ends its handle at once",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key, { holdAtLeast: "1m" });
      assert(lock.held);
      await lock.release();
      assert.deepEqual([lock.held, lock.expired, lock.signal.aborted], [false, false, false]);
      assert.throws(() => lock.assertHeld(), notHeld("released"));
      await assert.rejects(lock.release(), notHeld("released"));
      await assert.rejects(lock.refresh(), notHeld("released"));
      await lock[Symbol.asyncDispose]();
      await assert.rejects(locker.acquire(key), heldElsewhere);
      for (const [name, take] of Object.entries(ways)) {
        await take(locker, `${key}:${name}`, { holdAtLeast: "1m" });
        assert.equal(await locker.tryAcquire(`${key}:${name}`), undefined, name);
      }
    },
  },
  {
    says: "a lock with holdAtLeast is free when it has been released and the time has passed",
    letsPass: "brief",
    run: async ({ locker, key, brief, patience }) => {
      const before = performance.now();
      await (await locker.acquire(key, { holdAtLeast: brief })).release();
      await (await locker.acquire(key, { wait: patience })).release();
      const kept = performance.now() - before;
      assert(kept >= brief - 1, `it was free after ${kept} ms`);
      const late = await locker.acquire(key, { holdAtLeast: 1 });
      await assert.rejects(locker.acquire(key, { wait: brief }), { reason: "wait-timeout" });
      await late.release();
      await assertFree(locker, key);
    },
  },
  {
    says: "close frees a lock that is kept after its release",
    unless: "instance-local",
    run: async ({ locker, key, another }) => {
      await (await locker.acquire(key, { holdAtLeast: "1m" })).release();
      const other = await another();
      await assert.rejects(other.acquire(key), heldElsewhere);
      await locker.close();
      await assertFree(other, key);
    },
  },
];
