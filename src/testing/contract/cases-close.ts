import assert from "node:assert/strict";
import type { Locker } from "../../contract/locker.ts";
import { assertFree, type Case, closed, lapsed, notHeld } from "./fixture.ts";

async function assertClosed(locker: Locker, key: string): Promise<void> {
  for (const call of [() => locker.acquire(key), () => locker.tryAcquire(key), () => locker.ping()]) {
    await assert.rejects(call, closed);
  }
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
    says: "after close nothing is granted, and a second close is quiet",
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
      let end = (): void => {};
      const work = new Promise<void>((resolve) => {
        end = resolve;
      });
      let running: Promise<boolean> | undefined;
      await new Promise<void>((began, failed) => {
        running = locker.withLock(key, async (lock) => {
          began();
          await work;
          return lock.held;
        });
        running.catch(failed);
      });
      const closing = locker.close({ drain: patience });
      await assertClosed(locker, `${key}:other`);
      end();
      assert.equal(await running, true);
      await closing;
    },
  },
  {
    says: "a drain that is no duration is refused, and nothing is closed",
    run: async ({ locker, key }) => {
      const drain = { code: "INVALID_CONFIG", field: "drain" };
      await assert.rejects(locker.close({ drain: "soon" }), drain);
      await assertFree(locker, key);
    },
  },
];
