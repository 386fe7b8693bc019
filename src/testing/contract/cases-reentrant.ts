import assert from "node:assert/strict";
import type { Lock } from "../../contract/lock.ts";
import { assertFree, type Case, heldElsewhere, never, notHeld, underWay } from "./fixture.ts";

const reentrant = true;

/** Cases about calls that share the lock of the function around them. */
export const reentrantCases: readonly Case[] = [
  {
    says: "a reentrant call shares the lock of the function around it, which alone releases it",
    run: async ({ locker, key }) => {
      const ids = await locker.withLock(key, async ({ id }) => {
        const part = await locker.acquire(key, { reentrant });
        assert.deepEqual([part.key, part.held], [key, true]);
        await part.release();
        const other = await locker.tryAcquire(key, { reentrant });
        await other?.release();
        const inner = await locker.withLock(key, (lock) => lock.id, { reentrant });
        const tried = await locker.tryWithLock(key, (lock) => lock.id, { reentrant });
        const wrapped = await locker.wrapWithLock(key, () => id, { reentrant })();
        const group = await locker.withLocks([key, `${key}:other`], ({ locks }) => locks[0]?.id, {
          reentrant,
        });
        await assert.rejects(locker.acquire(key), heldElsewhere);
        return [
          [inner, tried, wrapped, group],
          [id, { acquired: true, value: id }, id, id],
          part.id,
          other?.id,
        ];
      });
      assert.deepEqual(ids[0], ids[1]);
      assert.equal(ids[2], ids[3]);
      await assertFree(locker, key);
    },
  },
  {
    says: "a reentrant call outside of withLock takes the lock, or is refused, like any other",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key, { reentrant });
      await assert.rejects(locker.withLock(key, never, { reentrant }), heldElsewhere);
      await locker.withLock(`${key}:other`, async () => {
        await assert.rejects(locker.withLock(key, never, { reentrant }), heldElsewhere);
      });
      await lock.release();
      await locker.withLock(key, () => locker.withLock(`${key}:other`, () => {}, { reentrant }));
      await assertFree(locker, key);
    },
  },
  {
    says: "reentrant calls exclude each other, and wait for each other only with the option `wait`",
    run: async ({ locker, key, patience }) => {
      await locker.withLock(key, async () => {
        const { running, end } = await underWay((work) => locker.withLock(key, work, { reentrant }));
        await assert.rejects(locker.withLock(key, never, { reentrant }), heldElsewhere);
        let hasEnded = false;
        const waiting = locker.withLock(key, () => hasEnded, { reentrant, wait: patience });
        hasEnded = true;
        end();
        await running;
        assert.equal(await waiting, true);
      });
    },
  },
  {
    says: "a reentrant call for the exclusive mode is refused inside a shared lock",
    run: async ({ locker, key }) => {
      await locker.withLock(
        key,
        async () => {
          await assert.rejects(locker.withLock(key, never, { reentrant }), heldElsewhere);
          assert.equal(await locker.withLock(key, () => 42, { reentrant, mode: "shared" }), 42);
        },
        { mode: "shared" },
      );
    },
  },
  {
    says: "the lock of a reentrant call ends with the function around it",
    run: async ({ locker, key }) => {
      const part = await locker.withLock(
        key,
        async (): Promise<[Lock]> => [await locker.acquire(key, { reentrant })],
      );
      assert.deepEqual([part[0].held, part[0].signal.aborted], [false, true]);
      assert.throws(() => part[0].assertHeld(), notHeld("lost"));
      await assert.rejects(part[0].release(), notHeld("lost"));
      await assertFree(locker, key);
    },
  },
];
