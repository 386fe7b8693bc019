import assert from "node:assert/strict";
import type { Locker } from "../../contract/locker.ts";
import {
  assertFree,
  type Case,
  closed,
  invalid,
  lapsed,
  never,
  notHeld,
  underWay,
  whatIsDue,
} from "./fixture.ts";

/** The calls that a locker refuses once it closes. */
function calls(locker: Locker, key: string): ReadonlyArray<() => Promise<unknown>> {
  const semaphore = locker.semaphore(key, 1);
  return [
    () => locker.acquire(key),
    () => locker.tryAcquire(key),
    () => locker.acquireAll([key]),
    () => locker.tryAcquireAll([key]),
    () => locker.withLock(key, never),
    () => locker.tryWithLock(key, never),
    () => locker.withLocks([key], never),
    locker.wrapWithLock(key, never),
    () => locker.namespace("name").acquire(key),
    () => locker.inspect(key),
    () => locker.isHeld(key),
    () => semaphore.acquire(),
    () => semaphore.tryAcquire(),
    () => semaphore.withPermit(never),
    () => semaphore.tryWithPermit(never),
    () => locker.elect(key, { onElected: never }),
    () => locker.ping(),
  ];
}

async function assertClosed(locker: Locker, key: string): Promise<void> {
  for (const call of calls(locker, key)) await assert.rejects(call, closed, `${call}`);
}

/** Cases about `close()`. */
export const closeCases: readonly Case[] = [
  {
    says: "close ends every lock, and their handles say so",
    run: async ({ locker, key }) => {
      const locks = [await locker.acquire(key), await locker.acquire(`${key}:other`)];
      await locker.close();
      for (const lock of locks) {
        assert.deepEqual([lock.held, lock.signal.reason?.code], [false, "LOCK_LOST"]);
        assert.throws(() => lock.assertHeld(), notHeld("closed"));
        await assert.rejects(lock.release(), notHeld("closed"));
        await assert.rejects(lock.refresh(), notHeld("closed"));
        await lock[Symbol.asyncDispose]();
      }
    },
  },
  {
    says: "close frees every key",
    unless: "instance-local",
    letsPass: "brief",
    run: async (given) => {
      const { locker, key, another } = given;
      await locker.acquire(key);
      await lapsed(given, { key: `${key}:lapsed` });
      await locker.close();
      const other = await another();
      await assertFree(other, key);
      await assertFree(other, `${key}:lapsed`);
    },
  },
  {
    says: "after close nothing is granted, and a second close does nothing",
    run: async ({ locker, key }) => {
      await locker.close();
      await assert.doesNotReject(locker.close());
      await assertClosed(locker, key);
    },
  },
  {
    says: "await using closes a locker",
    run: async ({ locker, key }) => {
      {
        await using disposed = locker;
        await disposed.acquire(key);
      }
      await assertClosed(locker, key);
    },
  },
  {
    says: "close with a drain lets the work under a lock end, and nothing new begin",
    run: async ({ locker, key, patience }) => {
      const { running, end } = await underWay((work) =>
        locker.withLock(key, async (lock) => {
          await work();
          return lock.held;
        }),
      );
      const closing = locker.close({ drain: patience });
      let isClosed = false;
      const second = locker.close().then(() => {
        isClosed = true;
      });
      await assertClosed(locker, `${key}:other`);
      await whatIsDue();
      assert.equal(isClosed, false);
      end();
      assert.equal(await running, true);
      await closing;
      await second;
    },
  },
  {
    says: "a drain that runs out ends what still runs under a lock",
    letsPass: "brief",
    run: async ({ locker, key, brief }) => {
      const { running } = await underWay((work) => locker.withLock(key, work));
      await locker.close({ drain: brief });
      await assert.rejects(running, { code: "LOCK_LOST" });
    },
  },
  {
    says: "an invalid drain is refused, as is an unknown option, and nothing is closed",
    run: async ({ locker, key }) => {
      await assert.rejects(locker.close({ drain: "soon" }), invalid("drain"));
      await assert.rejects(locker.close({ drane: "1s" } as object), invalid("drane"));
      await assertFree(locker, key);
    },
  },
];
