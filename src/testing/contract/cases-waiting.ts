import assert from "node:assert/strict";
import type { Lock } from "../../contract/lock.ts";
import type { AbortSignalLike } from "../../contract/locker.ts";
import {
  assertFree,
  assertRejectsWith,
  type Case,
  closed,
  type Given,
  heldElsewhere,
  inTime,
  lapsed,
  never,
  until,
  waitTimeout,
} from "./fixture.ts";

/** An `AbortSignal` as a library of somebody else's might have it. */
function polyfill(): { signal: AbortSignalLike; abort(reason: unknown): void } {
  const listeners = new Set<() => void>();
  let given: { reason: unknown } | undefined;
  const signal: AbortSignalLike = {
    get aborted() {
      return given !== undefined;
    },
    get reason() {
      return given?.reason;
    },
    addEventListener: (_, listener) => void listeners.add(listener),
    removeEventListener: (_, listener) => void listeners.delete(listener),
  };
  const abort = (reason: unknown): void => {
    given = { reason };
    for (const listener of listeners) listener();
  };
  return { signal, abort };
}

/** Cases about waiting for a lock. */
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
    run: async ({ locker, key, another, patience }) => {
      const other = await another();
      const lock = await locker.acquire(key);
      assert.equal(await other.tryAcquire(key), undefined);
      const waiting = other.acquire(key, { wait: patience });
      await lock.release();
      assert((await waiting).held);
    },
  },
  {
    says: "a waiter gets the lock when its holder's locker closes",
    unless: "instance-local",
    run: async ({ locker, key, another, patience }) => {
      const other = await another();
      await locker.acquire(key);
      assert.equal(await other.tryAcquire(key), undefined);
      const waiting = other.acquire(key, { wait: patience });
      await locker.close();
      assert((await waiting).held);
    },
  },
  {
    says: "a waiter gets a lock that lapses",
    unless: "lapsed-lock-stays",
    letsPass: "brief",
    run: async ({ locker, key, brief, patience }) => {
      await inTime({ patience }, () => locker.acquire(key, { ttl: brief }));
      assert((await locker.acquire(key, { wait: patience })).held);
    },
  },
  {
    says: "a waiter gets a lapsed lock when it is released",
    letsPass: "brief",
    run: async (given) => {
      const lock = await lapsed(given);
      const waiting = given.locker.acquire(given.key, { wait: given.patience });
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
    says: "a wait that runs out rejects, or makes tryAcquire return undefined, and the holder keeps the lock",
    letsPass: "brief",
    run: async ({ locker, key, brief }) => {
      const lock = await locker.acquire(key);
      await assert.rejects(locker.acquire(key, { wait: brief }), { ...waitTimeout, key, waited: brief });
      assert.equal(await locker.tryAcquire(key, { wait: brief }), undefined);
      await assert.rejects(locker.acquire(key, { wait: 0 }), heldElsewhere);
      assert(lock.held);
    },
  },
  ...[-1, "-1s", Number.NaN, Number.POSITIVE_INFINITY, "5", "soon", false, null].map((wait) => ({
    says: `a wait of ${typeof wait === "string" ? JSON.stringify(wait) : wait} is refused, and the key stays free`,
    run: async ({ locker, key }: Given) => {
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
    says: "one signal ends any number of calls, even if its class is not Node.js's own",
    run: async ({ locker, key }) => {
      const keys = ["a", "b"].map((end) => `${key}:${end}`);
      const locks = await Promise.all(keys.map((each) => locker.acquire(each)));
      const { signal, abort } = polyfill();
      const waits = keys.map((each) => locker.acquire(each, { wait: true, signal }));
      const reason = new Error("the caller's own");
      abort(reason);
      for (const waiting of waits) await assertRejectsWith(waiting, reason);
      for (const lock of locks) await lock.release();
    },
  },
  {
    says: "a call without the option `wait` doesn't wait",
    letsPass: "brief",
    run: async (given) => {
      const { locker, key } = given;
      await locker.acquire(key);
      const waits: string[] = [];
      locker.on("waiting", (wait) => waits.push(wait.key));
      await assert.rejects(locker.acquire(key), heldElsewhere);
      assert.equal(await locker.tryAcquire(key), undefined);
      await assert.rejects(locker.acquireAll([key]), heldElsewhere);
      assert.equal(await locker.tryAcquireAll([key]), undefined);
      await assert.rejects(locker.withLock(key, never), heldElsewhere);
      assert.deepEqual(await locker.tryWithLock(key, never), { acquired: false });
      await assert.rejects(locker.withLocks([key], never), heldElsewhere);
      await assert.rejects(locker.wrapWithLock(key, never)(), heldElsewhere);
      await locker.acquire(`${key}:other`);
      await locker.tryAcquire(`${key}:other`, { wait: 1 });
      await until(given, () => waits.length > 0, "the event of a call that waits");
      assert.deepEqual(waits, [`${key}:other`]);
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
    says: "waiting readers are let in together, and no reader passes a waiting writer",
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
    says: "an unbounded wait for the same key inside withLock is refused at once",
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
];
