import assert from "node:assert/strict";
import { assertRejectsWith, type Case, emptyKey, type Given, invalid, invalidKey, until } from "./fixture.ts";

/** Cases about `inspect` and `isHeld`. */
export const inspectionCases: readonly Case[] = [
  {
    says: "inspect and isHeld say whether a lock is held, and by whom",
    run: async ({ locker, key }) => {
      const { id } = await locker.withLock(key, (lock) => lock);
      const free = { key, id, held: false, heldHere: false, holders: [], waiters: [], waitingHere: 0 };
      assert.deepEqual(await locker.inspect(key), free);
      assert.equal(await locker.isHeld(key), false);
      const before = Date.now();
      const lock = await locker.acquire(key, { fencing: true });
      const after = Date.now();
      const { held, heldHere, holders } = await locker.inspect(key);
      assert.deepEqual([held, heldHere, holders.length], [true, true, 1]);
      const { mode, own, since, fencingToken } = holders[0] ?? {};
      assert.deepEqual([mode, own, fencingToken], ["exclusive", true, lock.fencingToken]);
      assert(since !== undefined && since.getTime() >= before && since.getTime() <= after, `since ${since}`);
      assert.equal(await locker.isHeld(key), true);
      await lock.release();
      assert.equal(await locker.isHeld(key), false);
      await using _reader = await locker.acquire(key, { mode: "shared" });
      assert.equal((await locker.inspect(key)).holders[0]?.mode, "shared");
    },
  },
  {
    says: "inspect counts the callers that wait, and acquires nothing",
    run: async (given) => {
      const { locker, key } = given;
      const lock = await locker.acquire(key);
      const waiting = (given: Given, callers: number): Promise<void> =>
        until(given, async () => (await locker.inspect(key)).waitingHere === callers, `${callers} wait`);
      const aborting = new AbortController();
      const waits = [1, 2].map(() => locker.acquire(key, { wait: true, signal: aborting.signal }));
      await waiting(given, 2);
      aborting.abort("enough");
      await Promise.allSettled(waits);
      await waiting(given, 0);
      await lock.release();
      await locker.inspect(key);
      assert((await locker.acquire(key)).held);
    },
  },
  {
    says: "inspect sees the lock of another locker, and says that it isn't held here",
    unless: "instance-local",
    run: async ({ locker, key, another }) => {
      const other = await another();
      await using _lock = await other.acquire(key);
      const { held, heldHere, holders } = await locker.inspect(key);
      assert.deepEqual([held, heldHere, holders.map(({ own }) => own)], [true, false, [false]]);
      assert.equal(await locker.isHeld(key), true);
    },
  },
  {
    says: "inspect and isHeld refuse an invalid key, an unknown option, and an aborted signal",
    run: async ({ locker, key }) => {
      for (const look of [locker.inspect, locker.isHeld]) {
        await assert.rejects(look(""), emptyKey);
        await assert.rejects(look(42 as unknown as string), invalidKey);
        await assert.rejects(look(key, { wait: 1 } as object), invalid("wait"));
        const reason = new Error("the caller's own");
        await assertRejectsWith(look(key, { signal: AbortSignal.abort(reason) }), reason);
      }
    },
  },
];
