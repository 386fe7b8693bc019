import assert from "node:assert/strict";
import type { Lock } from "../../contract/lock.ts";
import {
  assertFree,
  assertRejectsWith,
  type Case,
  heldElsewhere,
  invalid,
  notHeld,
  pass,
  until,
  waitTimeout,
} from "./fixture.ts";

/** Cases about several locks that are acquired together. */
export const groupCases: readonly Case[] = [
  {
    says: "acquireAll acquires every lock, returns them in the order of the keys, and releases them together",
    run: async ({ locker, key }) => {
      const keys = ["c", "a", "b"].map((end) => `${key}:${end}`);
      const group = await locker.acquireAll(keys, { ttl: "1m" });
      assert.deepEqual(
        group.locks.map((lock) => [lock.key, lock.ttl, lock.held]),
        keys.map((each) => [each, 60_000, true]),
      );
      assert(group.held);
      group.assertHeld();
      await group.refresh("2m");
      assert.deepEqual([group.held, group.locks[0]?.ttl], [true, 120_000]);
      await group.release();
      for (const each of keys) await assertFree(locker, each);
      assert.equal(group.held, false);
      assert.throws(() => group.assertHeld(), notHeld("released"));
      await assert.rejects(group.release(), notHeld("released"));
      await group[Symbol.asyncDispose]();
    },
  },
  {
    says: "acquireAll takes all or none",
    letsPass: "brief",
    run: async ({ locker, key, brief }) => {
      const keys = ["a", "b", "c"].map((end) => `${key}:${end}`);
      for (const held of keys) {
        const lock = await locker.acquire(held);
        await assert.rejects(locker.acquireAll(keys), { ...heldElsewhere, key: held });
        await assert.rejects(locker.acquireAll(keys, { wait: brief }), {
          ...waitTimeout,
          key: held,
          waited: brief,
        });
        for (const other of keys) if (other !== held) await assertFree(locker, other);
        await lock.release();
      }
      await using group = await locker.acquireAll(keys);
      assert(group.held);
    },
  },
  {
    says: "acquireAll waits for each lock, and meanwhile keeps those that it has past their TTL",
    letsPass: "spare",
    run: async (given) => {
      const { locker, key, spare } = given;
      const keys = Array.from({ length: 4 }, (_, i) => `${key}:${i}`);
      const held = await Promise.all(keys.map((each) => locker.acquire(each)));
      const waiting = locker.acquireAll(keys, { wait: true, ttl: spare });
      // Sorted in the order in which they are acquired: `acquireAll` has the first for longer than a TTL before it gets the others.
      held.sort((a, b) => (a.id < b.id ? -1 : 1));
      const [first, ...others] = held as [Lock, ...Lock[]];
      await first.release();
      const isTaken = async (): Promise<boolean> => {
        const free = await locker.tryAcquire(first.key);
        await free?.release();
        return free === undefined;
      };
      await until(given, isTaken, "the first of them is taken");
      await pass(given, spare);
      for (const lock of others) await lock.release();
      const group = await waiting;
      assert.deepEqual([group.held, group.signal.aborted], [true, false]);
      await group.release();
    },
  },
  {
    says: "acquireAll with overlapping keys has no deadlock",
    run: async ({ locker, key, patience }) => {
      const orders = [
        ["a", "b", "c"],
        ["c", "b", "a"],
        ["b", "c"],
        ["c", "a"],
      ];
      const turns = orders.map(async (ends) => {
        const keys = ends.map((end) => `${key}:${end}`);
        for (let turn = 0; turn < 3; turn += 1) {
          await using group = await locker.acquireAll(keys, { wait: patience });
          assert(group.held);
        }
      });
      await Promise.all(turns);
    },
  },
  {
    says: "acquireAll of no keys, or of one key twice, is refused",
    run: async ({ locker, key }) => {
      const twice = { code: "INVALID_CONFIG", field: "keys" };
      await assert.rejects(locker.acquireAll([]), twice);
      await assert.rejects(locker.acquireAll([key, `${key}:other`, key]), twice);
      await assert.rejects(locker.acquireAll(key as unknown as string[]), twice);
      await assert.rejects(locker.acquireAll([key, ""]), { code: "EMPTY_KEY" });
      await assertFree(locker, key);
    },
  },
  {
    says: "the signal of a group aborts with the first of its locks that is lost",
    letsPass: "spare",
    run: async (given) => {
      const { locker, key, spare } = given;
      const group = await locker.acquireAll([key, `${key}:other`], { ttl: spare });
      await group.locks[1]?.refresh("1m");
      await until(given, () => group.signal.aborted, "the signal aborts");
      assert.deepEqual(
        [group.signal.reason.code, group.signal.reason.key, group.held, group.locks[1]?.held],
        ["LOCK_EXPIRED", key, false, true],
      );
      await assert.rejects(group.release(), notHeld("expired"));
      for (const each of [key, `${key}:other`]) await assertFree(locker, each);
    },
  },
  {
    says: "tryAcquireAll takes all, or takes none and returns undefined; it throws any other failure",
    letsPass: "brief",
    run: async ({ locker, key, brief }) => {
      const keys = [`${key}:a`, `${key}:b`];
      for (const held of keys) {
        const lock = await locker.acquire(held);
        assert.equal(await locker.tryAcquireAll(keys), undefined);
        assert.equal(await locker.tryAcquireAll(keys, { wait: brief }), undefined);
        for (const other of keys) if (other !== held) await assertFree(locker, other);
        await lock.release();
      }
      await assert.rejects(locker.tryAcquireAll([]), invalid("keys"));
      await assert.rejects(locker.tryAcquireAll([key, ""]), { code: "EMPTY_KEY" });
      const group = await locker.tryAcquireAll(keys);
      assert.deepEqual(
        group?.locks.map((lock) => [lock.key, lock.held]),
        keys.map((each) => [each, true]),
      );
      await group?.release();
    },
  },
  {
    says: "acquireAll and tryAcquireAll have the locks that their options ask for",
    run: async ({ locker, key }) => {
      const keys = [`${key}:a`, `${key}:b`];
      for (const take of [locker.acquireAll, locker.tryAcquireAll]) {
        const group = await take(keys, { ttl: "40s", mode: "shared", fencing: true });
        for (const { ttl, mode, fencingToken } of group?.locks ?? []) {
          assert.deepEqual([ttl, mode, typeof fencingToken], [40_000, "shared", "bigint"]);
        }
        await assert.rejects(locker.acquire(`${key}:b`), heldElsewhere);
        await (await locker.acquire(`${key}:b`, { mode: "shared" })).release();
        await group?.release();
        await assert.rejects(take(keys, { holdAtLeast: "1s" }), invalid("holdAtLeast"));
        await assert.rejects(take(keys, { tll: "1h" } as object), invalid("tll"));
      }
      for (const each of keys) await assertFree(locker, each);
    },
  },
  {
    says: "acquireAll and tryAcquireAll keep their locks past the TTL with autoRefresh",
    letsPass: "spare",
    run: async (given) => {
      const { locker, key, spare } = given;
      const options = { ttl: spare, autoRefresh: true };
      const groups = [
        await locker.acquireAll([`${key}:a`, `${key}:b`], options),
        await locker.tryAcquireAll([`${key}:c`, `${key}:d`], options),
      ];
      await pass(given, spare);
      assert.deepEqual(
        groups.map((group) => [group?.held, group?.signal.aborted]),
        [
          [true, false],
          [true, false],
        ],
      );
      for (const group of groups) await group?.release();
    },
  },
  {
    says: "a group says when the first of its locks expires",
    run: async ({ locker, key }) => {
      for (const later of [0, 1]) {
        const group = await locker.acquireAll([`${key}:a`, `${key}:b`], { ttl: "1m" });
        await group.locks[later]?.refresh("2m");
        const first = group.locks[1 - later] as Lock;
        const soonest = first.expiresAt;
        assert(group.expiresAt >= soonest && group.expiresAt <= first.expiresAt, `at ${group.expiresAt}`);
        const { remaining } = first;
        assert(group.remaining <= remaining && group.remaining > 0, `${group.remaining} ms remain`);
        await group.release();
        assert.equal(group.remaining, 0);
      }
    },
  },
  {
    says: "a group one of whose locks was released rejects, but still refreshes and releases the others",
    run: async ({ locker, key }) => {
      const keys = ["a", "b", "c"].map((end) => `${key}:${end}`);
      const group = await locker.acquireAll(keys, { ttl: "1m" });
      await group.locks[1]?.release();
      const gone = { ...notHeld("released"), key: keys[1] };
      assert.deepEqual([group.held, group.signal.aborted], [false, false]);
      assert.throws(() => group.assertHeld(), gone);
      await assert.rejects(group.refresh("2m"), gone);
      assert.deepEqual([group.locks[0]?.ttl, group.locks[2]?.ttl], [120_000, 120_000]);
      await assert.rejects(group.release(), gone);
      for (const each of keys) await assertFree(locker, each);
    },
  },
  {
    says: "a group that is disposed of releases every lock",
    run: async ({ locker, key }) => {
      const keys = [`${key}:a`, `${key}:b`];
      {
        await using group = await locker.acquireAll(keys);
        assert(group.held);
      }
      for (const each of keys) await assertFree(locker, each);
    },
  },
  {
    says: "an acquireAll that is aborted holds nothing",
    run: async ({ locker, key, patience }) => {
      const keys = ["a", "b", "c"].map((end) => `${key}:${end}`);
      const held = await Promise.all(keys.map((each) => locker.acquire(each)));
      const aborting = new AbortController();
      const reason = new Error("the caller's own");
      const waiting = locker.acquireAll(keys, { wait: true, signal: aborting.signal });
      await held[0]?.release();
      await held[2]?.release();
      aborting.abort(reason);
      await assertRejectsWith(waiting, reason);
      await held[1]?.release();
      for (const each of keys) await (await locker.acquire(each, { wait: patience })).release();
    },
  },
];
