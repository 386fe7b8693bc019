import assert from "node:assert/strict";
import type { AcquireOptions } from "../../contract/locker.ts";
import {
  assertFree,
  assertRejectsWith,
  type Case,
  emptyKey,
  type Given,
  heldElsewhere,
  invalidTtl,
  notHeld,
} from "./fixture.ts";

const reason = new Error("the caller's own");

/** Cases about a lock that is granted or refused at once, and released before its TTL passes. */
export const lockCases: readonly Case[] = [
  {
    says: "a handle tells its key, id, mode and TTL, holds, and is released",
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
  {
    says: "a key has the same id each time",
    run: async ({ locker, key }) => {
      const { id } = await locker.acquire(key, { mode: "shared" });
      assert.equal((await locker.acquire(key, { mode: "shared" })).id, id);
    },
  },
  {
    says: "an empty key is refused",
    run: async ({ locker }) => {
      await assert.rejects(locker.acquire(""), emptyKey);
      await assert.rejects(locker.tryAcquire(""), emptyKey);
    },
  },
  ...[42, null, "\ud800"].map((key) => ({
    says: `the key ${JSON.stringify(key)} is refused`,
    run: async ({ locker }: Given) => {
      await assert.rejects(locker.acquire(key as string), { code: "INVALID_KEY" });
    },
  })),
  ...[0, "-1s", Number.NaN, Number.POSITIVE_INFINITY, "5"].map((ttl) => ({
    says: `the TTL ${JSON.stringify(ttl) === "null" ? ttl : JSON.stringify(ttl)} is refused, and the key stays free`,
    run: async ({ locker, key }: Given) => {
      await assert.rejects(locker.acquire(key, { ttl }), invalidTtl);
      await assertFree(locker, key);
    },
  })),
  {
    says: "a refresh with a TTL of zero or less is refused, and the lock stays as it was",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key, { ttl: "40s" });
      for (const ttl of [0, "-1s"]) await assert.rejects(lock.refresh(ttl), invalidTtl);
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
    says: "two keys are held at once",
    run: async ({ locker, key }) => {
      const one = await locker.acquire(key);
      const other = await locker.acquire(`${key}:other`);
      assert.notEqual(one.id, other.id);
      assert(one.held && other.held);
      await one.release();
      assert.deepEqual([one.held, other.held], [false, true]);
      await assert.rejects(locker.acquire(other.key), heldElsewhere);
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
    says: "shared holders go together, and exclude the exclusive one, as it does them",
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
    says: "after a release, release and refresh say so, and disposal is quiet",
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
    says: "an unknown option is refused, and so is an unknown mode",
    run: async ({ locker, key }) => {
      for (const [field, value] of [
        ["tll", "1h"],
        ["mode", "read"],
      ] as const) {
        const options = { [field]: value } as AcquireOptions;
        await assert.rejects(locker.acquire(key, options), { code: "INVALID_CONFIG", field });
      }
    },
  },
  {
    says: "the methods work without their object",
    run: async ({ locker, key }) => {
      const { acquire, tryAcquire, ping, close } = locker;
      await ping();
      await (await acquire(key)).release();
      await (await tryAcquire(key))?.release();
      await close();
    },
  },
  { says: "a ping is answered", run: async ({ locker }) => locker.ping() },
];
