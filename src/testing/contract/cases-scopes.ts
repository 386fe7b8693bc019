import assert from "node:assert/strict";
import type { Lock } from "../../contract/lock.ts";
import {
  assertFree,
  assertRejectsWith,
  type Case,
  emptyKey,
  failures,
  heldElsewhere,
  inTime,
  invalid,
  never,
  notHeld,
  pass,
  until,
  waitTimeout,
  whatIsDue,
} from "./fixture.ts";

const error = new Error("the function's own");

/** Cases about `withLock` and `tryWithLock`. */
export const scopeCases: readonly Case[] = [
  {
    says: "withLock returns what its function returns, and releases the lock whatever the function does",
    run: async ({ locker, key }) => {
      assert.equal(await locker.withLock(key, async (lock) => lock.key === key && lock.held), true);
      await assertFree(locker, key);
      for (const fail of failures(error)) {
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
    says: "tryWithLock passes on the error of its function, and releases the lock whatever the function does",
    run: async ({ locker, key }) => {
      const answer = await locker.tryWithLock(key, async (lock) => lock.key === key && lock.held);
      assert.deepEqual(answer, { acquired: true, value: true });
      await assertFree(locker, key);
      for (const fail of failures(error)) {
        await assertRejectsWith(locker.tryWithLock(key, fail), error);
        await assertFree(locker, key);
      }
    },
  },
  {
    says: "tryWithLock doesn't mistake an error of its function for a held key",
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
    says: "withLock, tryWithLock and withLocks refuse what is not a function, and the key stays free",
    run: async ({ locker, key }) => {
      const no = 42 as unknown as () => void;
      await assert.rejects(locker.withLock(key, no), invalid("fn"));
      await assert.rejects(locker.tryWithLock(key, no), invalid("fn"));
      await assert.rejects(locker.withLocks([key], no), invalid("fn"));
      await assertFree(locker, key);
    },
  },
  {
    says: "withLock and tryWithLock have the lock that their options ask for",
    run: async ({ locker, key }) => {
      const options = { ttl: "40s", mode: "shared", fencing: true } as const;
      const facts = ({ ttl, mode, fencingToken }: Lock) => [ttl, mode, typeof fencingToken];
      const asked = [40_000, "shared", "bigint"];
      assert.deepEqual(await locker.withLock(key, facts, options), asked);
      const answer = await locker.tryWithLock(key, facts, options);
      assert.deepEqual(answer, { acquired: true, value: asked });
    },
  },
  {
    says: "a failed release fails withLock, or is the `suppressed` of what its function throws",
    run: async ({ locker, key }) => {
      for (const run of [locker.withLock, locker.tryWithLock]) {
        await assert.rejects(
          run(key, (lock) => lock.release()),
          notHeld("released"),
        );
        const failure = new Error("the function's own") as Error & { suppressed?: { code?: string } };
        const failing = run(key, async (lock) => {
          await lock.release();
          throw failure;
        });
        await assertRejectsWith(failing, failure);
        assert.equal(failure.suppressed?.code, "LOCK_NOT_HELD");
      }
    },
  },
  {
    says: "the key is held inside withLock, and a refused withLock doesn't run its function",
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
    says: "a withLock that waits runs its function once the holder has released, and not before",
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
    says: "a withLock whose wait runs out, or is aborted, never runs its function",
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
    says: "a tryWithLock that waits runs its function once the holder has released, unless it is aborted",
    run: async ({ locker, key, patience }) => {
      const lock = await locker.acquire(key);
      const aborting = new AbortController();
      const aborted = locker.tryWithLock(key, never, { wait: true, signal: aborting.signal });
      aborting.abort(error);
      await assertRejectsWith(aborted, error);
      const waiting = locker.tryWithLock(key, () => lock.held, { wait: patience });
      await lock.release();
      assert.deepEqual(await waiting, { acquired: true, value: false });
    },
  },
  ...(["withLock", "tryWithLock"] as const).flatMap((method): readonly Case[] => [
    {
      says: `${method} keeps its lock past the TTL`,
      letsPass: "spare",
      run: async (given) => {
        const { locker, key, spare } = given;
        const work = async (lock: Lock): Promise<boolean> => {
          await pass(given, spare);
          await assert.rejects(locker.acquire(key), heldElsewhere);
          return lock.held && !lock.signal.aborted;
        };
        const answer = await locker[method](key, work, { ttl: spare });
        assert.deepEqual(answer, method === "withLock" ? true : { acquired: true, value: true });
      },
    },
    {
      says: `${method} rejects as soon as its lock lapses, whatever its function does`,
      letsPass: "brief",
      run: async (given) => {
        const { locker, key, brief } = given;
        const forEver = () => new Promise(() => {});
        let reason: { code?: string } | undefined;
        const options = { ttl: brief, autoRefresh: false };
        const running = inTime(given, () => locker[method](key, forEver, options) as Promise<unknown>);
        running.catch((loss) => {
          reason = loss;
        });
        await until(given, () => reason !== undefined, `${method} rejects`);
        assert.equal(reason?.code, "LOCK_EXPIRED");
      },
    },
  ]),
];
