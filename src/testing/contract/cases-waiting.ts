import assert from "node:assert/strict";
import type { Lock } from "../../contract/locker.ts";
import {
  assertFree,
  assertRejectsWith,
  brief,
  type Case,
  closed,
  heldElsewhere,
  lapsed,
  notHeld,
  spare,
  until,
} from "./fixture.ts";

const waitTimeout = { code: "LOCK_NOT_ACQUIRED", reason: "wait-timeout" };

/** Of waiting for a lock, and of the scopes that hold one. */
export const waitingCases: readonly Case[] = [
  {
    says: "a waiter gets the lock when it is released",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key);
      const waiting = locker.acquire(key, { wait: true });
      await lock.release();
      assert((await waiting).held);
    },
  },
  {
    says: "a waiter gets the lock when another locker releases it",
    unless: "instance-local",
    run: async ({ locker, key, another }) => {
      const other = await another();
      const lock = await locker.acquire(key);
      const waiting = other.acquire(key, { wait: "10s" });
      await lock.release();
      assert((await waiting).held);
    },
  },
  {
    says: "a waiter gets the lock when its holder's locker closes",
    unless: "instance-local",
    run: async ({ locker, key, another }) => {
      const other = await another();
      await locker.acquire(key);
      const waiting = other.acquire(key, { wait: "10s" });
      await locker.close();
      assert((await waiting).held);
    },
  },
  {
    says: "a waiter gets a lock that lapses",
    unless: "lapsed-lock-stays",
    run: async ({ locker, key }) => {
      await locker.acquire(key, { ttl: brief });
      assert((await locker.acquire(key, { wait: "10s" })).held);
    },
  },
  {
    says: "a waiter gets a lock that lapsed when that is released",
    run: async (given) => {
      const lock = await lapsed(given);
      const waiting = given.locker.acquire(given.key, { wait: "10s" });
      await lock[Symbol.asyncDispose]();
      assert((await waiting).held);
    },
  },
  {
    says: "a free lock is worth one try, however short the wait",
    run: async ({ locker, key }) => {
      await (await locker.acquire(key, { wait: "1ns" })).release();
      await (await locker.acquire(key, { wait: 0 })).release();
    },
  },
  {
    says: "a wait that passes is told, with tryAcquire as undefined, and the holder keeps the lock",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key);
      await assert.rejects(locker.acquire(key, { wait: brief }), { ...waitTimeout, key, waited: brief });
      assert.equal(await locker.tryAcquire(key, { wait: brief }), undefined);
      await assert.rejects(locker.acquire(key, { wait: 0 }), heldElsewhere);
      assert(lock.held);
    },
  },
  ...[-1, "-1s", Number.NaN, Number.POSITIVE_INFINITY, "5", "soon", false, null].map((wait) => ({
    says: `a wait of ${typeof wait === "string" ? JSON.stringify(wait) : wait} is refused, and the key stays free`,
    run: async ({ locker, key }: Parameters<Case["run"]>[0]) => {
      const options = { wait } as unknown as { wait: true };
      await assert.rejects(locker.acquire(key, options), { code: "INVALID_CONFIG", field: "wait" });
      await assertFree(locker, key);
    },
  })),
  {
    says: "an aborted wait rejects with the signal's own reason, and the next in line is served",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key);
      const aborting = new AbortController();
      const reason = new Error("the caller's own");
      const first = locker.acquire(key, { wait: true, signal: aborting.signal });
      const second = locker.acquire(key, { wait: true });
      aborting.abort(reason);
      await assertRejectsWith(first, reason);
      await lock.release();
      assert((await second).held);
    },
  },
  {
    says: "waiters of one locker are served in the order in which they came",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(key);
      const served: number[] = [];
      const waiting = Array.from({ length: 8 }, (_, place) =>
        locker.withLock(key, () => void served.push(place), { wait: true }),
      );
      await lock.release();
      await Promise.all(waiting);
      assert.deepEqual(served, [0, 1, 2, 3, 4, 5, 6, 7]);
    },
  },
  {
    says: "close ends every wait",
    run: async ({ locker, key }) => {
      await locker.acquire(key);
      const waits = [locker.acquire(key, { wait: true }), locker.acquire(key, { wait: "1m" })];
      const outcomes = Promise.allSettled(waits);
      await locker.close();
      for (const outcome of await outcomes) {
        assert.equal(outcome.status, "rejected");
        await assert.rejects(Promise.reject(outcome.reason), closed);
      }
    },
  },
  {
    says: "waiting readers are let in together, and a writer that waits is not passed by readers",
    run: async ({ locker, key }) => {
      const reader = { mode: "shared", wait: true } as const;
      const writer = await locker.acquire(key);
      const readers = [locker.acquire(key, reader), locker.acquire(key, reader)];
      await writer.release();
      const [one, two] = (await Promise.all(readers)) as [Lock, Lock];
      assert(one.held && two.held);
      const next = locker.acquire(key, { wait: true });
      assert.equal(await locker.tryAcquire(key, { mode: "shared" }), undefined);
      const late = locker.acquire(key, reader);
      await one.release();
      await two.release();
      const alone = await next;
      assert(alone.held);
      await alone.release();
      assert((await late).held);
    },
  },
  {
    says: "a wait inside withLock for the same key is not waited",
    run: async ({ locker, key }) => {
      await locker.withLock(key, async () => {
        await assert.rejects(locker.acquire(key, { wait: true }), {
          ...heldElsewhere,
          message: /not re-entrant/,
        });
        await assert.rejects(
          locker.withLock(key, () => {}, { wait: true }),
          heldElsewhere,
        );
        assert.deepEqual(await locker.tryWithLock(key, () => {}, { wait: true }), { acquired: false });
      });
      await locker.withLock(key, () => {}, { wait: true });
    },
  },
  {
    says: "withLock answers with what its function answers, and releases whatever that does",
    run: async ({ locker, key }) => {
      assert.equal(await locker.withLock(key, async (lock) => lock.held), true);
      const error = new Error("its own");
      await assertRejectsWith(
        locker.withLock(key, () => {
          throw error;
        }),
        error,
      );
      await assertRejectsWith(
        locker.withLock(key, () => Promise.reject(undefined)),
        undefined,
      );
      await assertFree(locker, key);
    },
  },
  {
    says: "tryWithLock answers without running its function where the lock is held",
    run: async ({ locker, key }) => {
      assert.deepEqual(await locker.tryWithLock(key, () => 42), { acquired: true, value: 42 });
      await locker.acquire(key);
      const never = () => assert.fail("the function ran");
      assert.deepEqual(await locker.tryWithLock(key, never), { acquired: false });
      assert.deepEqual(await locker.tryWithLock(key, never, { wait: brief }), { acquired: false });
    },
  },
  {
    says: "acquireAll takes every lock, in the order asked for, and releases them together",
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
      assert.equal(group.held, false);
      assert.throws(() => group.assertHeld(), notHeld("released"));
      await assert.rejects(group.release(), notHeld("released"));
      await group[Symbol.asyncDispose]();
      for (const each of keys) await assertFree(locker, each);
    },
  },
  {
    says: "acquireAll takes all or none",
    run: async ({ locker, key }) => {
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
    says: "acquireAll waits for each, and keeps those it has past their TTL meanwhile",
    run: async ({ locker, key }) => {
      const keys = Array.from({ length: 4 }, (_, i) => `${key}:${i}`);
      const held = await Promise.all(keys.map((each) => locker.acquire(each)));
      const waiting = locker.acquireAll(keys, { wait: true, ttl: spare });
      await lapsed({ locker, key: `${key}:witness`, another: () => assert.fail() }, spare);
      for (const lock of held) {
        await lapsed({ locker, key: `${key}:witness:${lock.key}`, another: () => assert.fail() }, spare / 4);
        await lock.release();
      }
      const group = await waiting;
      assert(group.held);
      assert.equal(group.signal.aborted, false);
      await group.release();
    },
  },
  {
    says: "acquireAll of no key, or of one key twice, is refused",
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
    run: async ({ locker, key }) => {
      const group = await locker.acquireAll([key, `${key}:other`], { ttl: spare });
      await group.locks[1]?.refresh("1m");
      await until(() => group.signal.aborted, "the signal aborts");
      assert.deepEqual(
        [group.signal.reason.code, group.signal.reason.key, group.held, group.locks[1]?.held],
        ["LOCK_EXPIRED", key, false, true],
      );
      await assert.rejects(group.release(), notHeld("expired"));
      for (const each of [key, `${key}:other`]) await assertFree(locker, each);
    },
  },
  {
    says: "an acquireAll that is aborted holds nothing",
    run: async ({ locker, key }) => {
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
      for (const each of keys) await (await locker.acquire(each, { wait: "10s" })).release();
    },
  },
];
