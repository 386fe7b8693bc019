import assert from "node:assert/strict";
import {
  assertFree,
  assertRejectsWith,
  type Case,
  failures,
  heldElsewhere,
  inTime,
  invalid,
  never,
  notHeld,
  pass,
  until,
  waitTimeout,
} from "./fixture.ts";

const error = new Error("the function's own");
const twoKeys = (key: string): string[] => [`${key}:a`, `${key}:b`];

/** Cases about functions that run under several locks, or under a lock whenever they are called. */
export const withLocksCases: readonly Case[] = [
  {
    says: "withLocks runs its function under all its locks, and releases them whatever the function does",
    run: async ({ locker, key }) => {
      const keys = twoKeys(key);
      const assertAllFree = async (): Promise<void> => {
        for (const each of keys) await assertFree(locker, each);
      };
      const answer = await locker.withLocks(
        keys,
        async (group) => {
          for (const each of keys) assert.equal(await locker.tryAcquire(each), undefined);
          return [group.held, group.locks.map((lock) => [lock.key, lock.ttl])];
        },
        { ttl: "40s" },
      );
      assert.deepEqual(answer, [true, keys.map((each) => [each, 40_000])]);
      await assertAllFree();
      for (const fail of failures(error)) {
        await assertRejectsWith(locker.withLocks(keys, fail), error);
        await assertAllFree();
      }
      const giveBack = locker.withLocks(keys, (group) => group.locks[0]?.release());
      await assert.rejects(giveBack, notHeld("released"));
      await assertAllFree();
    },
  },
  {
    says: "withLocks doesn't run its function unless it gets all its locks",
    letsPass: "brief",
    run: async ({ locker, key, brief, patience }) => {
      const keys = twoKeys(key);
      const held = { key: keys[1] };
      const lock = await locker.acquire(`${key}:b`);
      await assert.rejects(locker.withLocks(keys, never), { ...heldElsewhere, ...held });
      await assert.rejects(locker.withLocks(keys, never, { wait: brief }), { ...waitTimeout, ...held });
      await assertRejectsWith(locker.withLocks(keys, never, { signal: AbortSignal.abort(error) }), error);
      await assert.rejects(locker.withLocks([], never), invalid("keys"));
      await assertFree(locker, `${key}:a`);
      const waiting = locker.withLocks(keys, ({ held }) => [held, lock.held], { wait: patience });
      await lock.release();
      assert.deepEqual(await waiting, [true, false]);
    },
  },
  {
    says: "withLocks keeps its locks past their TTL",
    letsPass: "spare",
    run: async (given) => {
      const { locker, key, spare } = given;
      const work = async (group: { held: boolean; signal: AbortSignal }): Promise<unknown> => {
        await pass(given, spare);
        return [group.held, group.signal.aborted];
      };
      assert.deepEqual(await locker.withLocks(twoKeys(key), work, { ttl: spare }), [true, false]);
    },
  },
  {
    says: "withLocks rejects as soon as one of its locks lapses, whatever its function does",
    letsPass: "brief",
    run: async (given) => {
      const { locker, key, brief } = given;
      let reason: { code?: string } | undefined;
      const options = { ttl: brief, autoRefresh: false };
      const running = inTime(given, () =>
        locker.withLocks(twoKeys(key), () => new Promise(() => {}), options),
      );
      running.catch((loss) => {
        reason = loss;
      });
      await until(given, () => reason !== undefined, "withLocks rejects");
      assert.equal(reason?.code, "LOCK_EXPIRED");
    },
  },
  {
    says: "wrapWithLock passes on `this`, the arguments and the result, and locks each time",
    run: async ({ locker, key }) => {
      const account = {
        balance: 40,
        add: locker.wrapWithLock(
          (amount: number) => `${key}:${amount}`,
          async function (this: { balance: number }, amount: number) {
            assert.equal(await locker.tryAcquire(`${key}:${amount}`), undefined);
            this.balance += amount;
            return this.balance;
          },
        ),
      };
      assert.equal(await account.add(1), 41);
      assert.equal(await account.add(1), 42);
      await assertFree(locker, `${key}:1`);
      for (const fail of failures(error)) {
        await assertRejectsWith(locker.wrapWithLock(key, fail)(), error);
        await assertFree(locker, key);
      }
      assert.throws(() => locker.wrapWithLock("", never), { code: "EMPTY_KEY" });
      assert.throws(() => locker.wrapWithLock(key, never, { ttl: 0 }), { code: "INVALID_TTL" });
    },
  },
  {
    says: "a function of wrapWithLock is refused or waits as its options say",
    run: async ({ locker, key, patience }) => {
      const lock = await locker.acquire(key);
      await assert.rejects(locker.wrapWithLock(key, never)(), { ...heldElsewhere, key });
      const waiting = locker.wrapWithLock(key, () => lock.held, { wait: patience })();
      await lock.release();
      assert.equal(await waiting, false);
    },
  },
  {
    says: "wrapWithLock refuses at once what is not a function, and an unknown option",
    run: async ({ locker, key }) => {
      assert.throws(() => locker.wrapWithLock(key, 42 as never), invalid("fn"));
      assert.throws(() => locker.wrapWithLock(key, never, { tll: "1h" } as object), invalid("tll"));
    },
  },
];
