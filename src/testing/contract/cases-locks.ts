import assert from "node:assert/strict";
import type { AcquireOptions } from "../../contract/locker.ts";
import {
  assertFree,
  assertRejectsWith,
  type Case,
  type Given,
  heldElsewhere,
  invalid,
  invalidTtl,
  notHeld,
} from "./fixture.ts";

const reason = new Error("the caller's own");
const badTtls = [0, "-1s", Number.NaN, Number.POSITIVE_INFINITY, "5"];

/** Cases about a lock that is granted or refused at once, and released before its TTL passes. */
export const lockCases: readonly Case[] = [
  {
    says: "a handle has the key, the id, the mode and the TTL, is held, and can be released",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key, { ttl: "1m30s" });
      const { id, mode, ttl, held, expired } = lock;
      assert.deepEqual(
        [lock.key, typeof id, mode, ttl, held, expired, lock.signal.aborted],
        [key, "bigint", "exclusive", 90_000, true, false, false],
      );
      lock.assertHeld();
      await lock.release();
      assert.deepEqual([lock.held, lock.expired, lock.signal.aborted], [false, false, false]);
      assert.throws(() => lock.assertHeld(), notHeld("released"));
    },
  },
  ...badTtls.map((ttl) => ({
    says: `the TTL ${JSON.stringify(ttl) === "null" ? ttl : JSON.stringify(ttl)} is refused, and the key stays free`,
    run: async ({ locker, key }: Given) => {
      await assert.rejects(locker.acquire(key, { ttl }), invalidTtl);
      await assertFree(locker, key);
    },
  })),
  {
    says: "a refresh with an invalid TTL is refused, and the lock stays as it was",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key, { ttl: "40s" });
      for (const ttl of badTtls) await assert.rejects(lock.refresh(ttl), invalidTtl);
      assert.deepEqual([lock.ttl, lock.held], [40_000, true]);
    },
  },
  {
    says: "a refresh keeps the TTL, or sets another one",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key, { ttl: "40s" });
      await lock.refresh();
      assert.equal(lock.ttl, 40_000);
      await lock.refresh("1m");
      assert.equal(lock.ttl, 60_000);
    },
  },
  {
    says: "a refresh whose signal has aborted rejects with its reason, and the lock stays as it was",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key, { ttl: "40s" });
      await assertRejectsWith(lock.refresh("1m", { signal: AbortSignal.abort(reason) }), reason);
      assert.deepEqual([lock.ttl, lock.held, lock.signal.aborted], [40_000, true, false]);
      await lock.release();
    },
  },
  {
    says: "a held key is refused, and tryAcquire returns undefined",
    run: async ({ locker, key }) => {
      const lock = await locker.tryAcquire(key);
      assert(lock?.held);
      await assert.rejects(locker.acquire(key), { ...heldElsewhere, key });
      assert.equal(await locker.tryAcquire(key), undefined);
      assert(lock.held);
    },
  },
  {
    says: "a released key is free",
    run: async ({ locker, key }) => {
      await assertFree(locker, key);
      await assertFree(locker, key);
    },
  },
  {
    says: "of eight racers one wins, and the others are refused",
    run: async ({ locker, key }) => {
      const racers = await Promise.allSettled(Array.from({ length: 8 }, () => locker.acquire(key)));
      const winners = racers.flatMap((racer) => (racer.status === "fulfilled" ? [racer.value] : []));
      assert.equal(winners.length, 1);
      for (const racer of racers) {
        if (racer.status === "rejected") await assert.rejects(Promise.reject(racer.reason), heldElsewhere);
      }
      await winners[0]?.release();
    },
  },
  {
    says: "two lockers contend",
    unless: "instance-local",
    run: async ({ locker, key, another }) => {
      const other = await another();
      const lock = await locker.acquire(key);
      await assert.rejects(other.acquire(key), heldElsewhere);
      await lock.release();
      await assertFree(other, key);
    },
  },
  {
    says: "shared holders hold the lock together; they and an exclusive holder exclude each other",
    run: async ({ locker, key }) => {
      const shared: AcquireOptions = { mode: "shared" };
      const one = await locker.acquire(key, shared);
      const two = await locker.acquire(key, shared);
      assert.deepEqual([one.mode, one.held, two.held], ["shared", true, true]);
      await assert.rejects(locker.acquire(key), heldElsewhere);
      await one.release();
      await assert.rejects(locker.acquire(key), heldElsewhere);
      await two.release();
      await using _exclusive = await locker.acquire(key);
      await assert.rejects(locker.acquire(key, shared), heldElsewhere);
    },
  },
  {
    says: "after a release, another release or a refresh rejects, and a disposal doesn't throw",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key);
      await lock.release();
      await assert.rejects(lock.release(), notHeld("released"));
      await assert.rejects(lock.refresh(), notHeld("released"));
      await lock[Symbol.asyncDispose]();
    },
  },
  {
    says: "of two releases at once, one says that the lock was not held",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key);
      const [one, other] = await Promise.allSettled([lock.release(), lock.release()]);
      assert.equal(one.status, "fulfilled");
      assert.equal(other.status, "rejected");
      await assert.rejects(Promise.reject(other.reason), notHeld("released"));
      await assertFree(locker, key);
    },
  },
  {
    says: "a second release doesn't free the lock of the next holder",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key);
      await lock.release();
      const next = await locker.acquire(key);
      await assert.rejects(lock.release(), notHeld("released"));
      await lock[Symbol.asyncDispose]();
      assert(next.held);
      await assert.rejects(locker.acquire(key), heldElsewhere);
    },
  },
  {
    says: "await using releases",
    run: async ({ locker, key }) => {
      {
        await using lock = await locker.acquire(key);
        assert(lock.held);
      }
      await assertFree(locker, key);
    },
  },
  {
    says: "fencing tokens grow from each holder of a key to the next, and are there only if asked for",
    run: async ({ locker, key }) => {
      let last = 0n;
      for (const mode of ["exclusive", "shared", "exclusive"] as const) {
        const lock = await locker.acquire(key, { fencing: true, mode });
        const token = lock.fencingToken;
        assert(token !== undefined && token > last, `${token} after ${last}`);
        await lock.refresh();
        assert.equal(lock.fencingToken, token);
        await lock.release();
        last = token;
      }
      await using without = await locker.acquire(key);
      assert.equal(without.fencingToken, undefined);
    },
  },
  {
    says: "an aborted signal rejects with its own reason, and the key stays free",
    run: async ({ locker, key }) => {
      await assertRejectsWith(locker.acquire(key, { signal: AbortSignal.abort(reason) }), reason);
      await assertRejectsWith(locker.tryAcquire(key, { signal: AbortSignal.abort(reason) }), reason);
      await assertFree(locker, key);
    },
  },
  {
    says: "a signal that aborts after the grant changes nothing",
    run: async ({ locker, key }) => {
      const aborting = new AbortController();
      const lock = await locker.acquire(key, { signal: aborting.signal });
      aborting.abort(reason);
      await lock.refresh();
      assert.deepEqual([lock.held, lock.signal.aborted], [true, false]);
      await assert.rejects(locker.acquire(key), heldElsewhere);
      await lock.release();
    },
  },
  {
    says: "an unknown option is refused by name, and so is an invalid value",
    run: async ({ locker, key }) => {
      for (const [field, value] of [
        ["tll", "1h"],
        ["mode", "read"],
        ["autoRefresh", "yes"],
        ["fencing", 1],
        ["reentrant", "no"],
        ["signal", {}],
        ["client", {}],
        ["holdAtLeast", -1],
      ] as const) {
        const options = { [field]: value } as object;
        await assert.rejects(locker.acquire(key, options), invalid(field));
        await assert.rejects(locker.tryAcquire(key, options), invalid(field));
      }
      await assert.rejects(locker.acquire(key, "1m" as unknown as object), invalid("options"));
      await assertFree(locker, key);
    },
  },
  {
    says: "the methods can be called without their object",
    run: async ({ locker, key }) => {
      const { acquire, tryAcquire, acquireAll, tryAcquireAll, withLock, tryWithLock, withLocks } = locker;
      const { wrapWithLock, namespace, inspect, isHeld, on, semaphore, elect, ping, close } = locker;
      await ping();
      on("acquired", () => {})();
      await (await acquire(key)).release();
      await (await tryAcquire(key))?.release();
      await (await acquireAll([key])).release();
      await (await tryAcquireAll([key]))?.release();
      await withLock(key, () => {});
      await tryWithLock(key, () => {});
      await withLocks([key], () => {});
      await wrapWithLock(key, () => {})();
      await namespace(key).withLock(key, () => {});
      await inspect(key);
      await isHeld(key);
      await semaphore(key, 1).withPermit(() => {});
      const ending = new AbortController();
      await elect(key, { signal: ending.signal, onElected: () => ending.abort() });
      await close();
    },
  },
  { says: "a ping is answered", run: async ({ locker }) => locker.ping() },
  {
    says: "a ping whose signal has aborted rejects with its reason",
    run: async ({ locker }) => {
      await assertRejectsWith(locker.ping({ signal: AbortSignal.abort(reason) }), reason);
      await locker.ping({ signal: new AbortController().signal });
    },
  },
];
