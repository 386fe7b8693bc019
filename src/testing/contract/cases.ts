import assert from "node:assert/strict";
import type { AcquireOptions } from "../../contract/locker.ts";
import {
  assertFree,
  assertRejectsWith,
  brief,
  type Case,
  closed,
  type Given,
  heldElsewhere,
  lapsed,
  notHeld,
  spare,
  until,
} from "./fixture.ts";

const invalidTtl = { code: "INVALID_TTL" };

/** Of a locker without waiting. */
export const cases: readonly Case[] = [
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
    says: "an empty key is refused",
    run: async ({ locker }) => {
      await assert.rejects(locker.acquire(""), { code: "EMPTY_KEY" });
      await assert.rejects(locker.tryAcquire(""), { code: "EMPTY_KEY" });
    },
  },
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
    says: "a held key is refused, and tryAcquire answers undefined",
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
    says: "a refresh outlives the first TTL",
    run: async (given) => {
      const lock = await given.locker.acquire(given.key, { ttl: spare });
      await lock.refresh("1m");
      await lapsed({ ...given, key: `${given.key}:witness` }, spare);
      assert.deepEqual([lock.ttl, lock.held, lock.expired], [60_000, true, false]);
      await assert.rejects(given.locker.acquire(given.key), heldElsewhere);
      await lock.release();
    },
  },
  {
    says: "the signal stays quiet after a release, also past the TTL",
    run: async (given) => {
      const lock = await given.locker.acquire(given.key, { ttl: spare });
      const { signal } = lock;
      await lock.release();
      await lapsed({ ...given, key: `${given.key}:witness` }, spare);
      assert.deepEqual([signal.aborted, lock.expired], [false, false]);
    },
  },
  {
    says: "a lock that lapses aborts its signal, and is not held",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key, { ttl: brief });
      const { signal } = lock;
      await until(() => signal.aborted, "the signal aborts");
      assert.equal(signal.reason.code, "LOCK_EXPIRED");
      assert.deepEqual([lock.held, lock.expired], [false, true]);
      assert.throws(() => lock.assertHeld(), notHeld("expired"));
    },
  },
  {
    says: "the release of a lapsed lock says so, and frees the key",
    run: async (given) => {
      const lock = await lapsed(given);
      await assert.rejects(lock.release(), notHeld("expired"));
      await assertFree(given.locker, given.key);
    },
  },
  {
    says: "the refresh of a lapsed lock says so",
    run: async (given) => {
      await assert.rejects((await lapsed(given)).refresh(), notHeld("expired"));
    },
  },
  {
    says: "the disposal of a lapsed lock is quiet, and frees the key",
    run: async (given) => {
      await (await lapsed(given))[Symbol.asyncDispose]();
      await assertFree(given.locker, given.key);
    },
  },
  {
    says: "a lapsed lock goes to the next caller",
    unless: "lapsed-lock-stays",
    run: async (given) => {
      const lock = await lapsed(given);
      // Its holder stops believing a moment before it is free.
      const next = await given.locker.acquire(given.key, { wait: "10s" });
      await assert.rejects(lock.release(), notHeld("expired"));
      assert(next.held);
      await assert.rejects(given.locker.acquire(given.key), heldElsewhere);
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
      const reason = new Error("the caller's own");
      await assertRejectsWith(locker.acquire(key, { signal: AbortSignal.abort(reason) }), reason);
      await assertFree(locker, key);
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
      }
    },
  },
  {
    says: "close frees every key",
    unless: "instance-local",
    run: async (given) => {
      const { locker, key, another } = given;
      await locker.acquire(key);
      await lapsed({ ...given, key: `${key}:lapsed` });
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
      await locker.close();
      for (const call of [() => locker.acquire(key), () => locker.tryAcquire(key), () => locker.ping()]) {
        await assert.rejects(call, closed);
      }
    },
  },
];
