import assert from "node:assert/strict";
import {
  assertFree,
  type Case,
  emptyKey,
  heldElsewhere,
  invalid,
  invalidKey,
  never,
  until,
} from "./fixture.ts";

/** Cases about `namespace`. */
export const namespaceCases: readonly Case[] = [
  {
    says: "a namespace puts its name and a colon before every key",
    letsPass: "brief",
    run: async ({ locker, key }) => {
      const within = locker.namespace(key);
      const lock = await within.acquire("42");
      assert.equal(lock.key, `${key}:42`);
      await assert.rejects(locker.acquire(`${key}:42`), heldElsewhere);
      await assert.rejects(within.acquire("42"), heldElsewhere);
      assert.equal(await within.tryAcquire("42"), undefined);
      await assert.rejects(within.acquireAll(["1", "42"]), { ...heldElsewhere, key: lock.key });
      assert.equal(await within.tryAcquireAll(["42"]), undefined);
      await assert.rejects(within.withLock("42", never), heldElsewhere);
      assert.deepEqual(await within.tryWithLock("42", never), { acquired: false });
      await assert.rejects(within.withLocks(["42"], never), heldElsewhere);
      await assert.rejects(within.wrapWithLock("42", never)(), heldElsewhere);
      await assert.rejects(
        within.wrapWithLock(
          (id: number) => `${id}`,
          (_: number) => never(),
        )(42),
        heldElsewhere,
      );
      assert.equal(await within.isHeld("42"), true);
      assert.equal((await within.inspect("42")).key, lock.key);
      await lock.release();
    },
  },
  {
    says: "a key in a namespace differs from the same key in another namespace, and in the locker itself",
    run: async ({ locker, key }) => {
      await locker.namespace(key).acquire("42");
      await assertFree(locker.namespace(`${key}2`), "42");
      const nested = await locker.namespace(key).namespace("7").acquire("42");
      assert.equal(nested.key, `${key}:7:42`);
      await assert.rejects(locker.acquire(`${key}:7:42`), heldElsewhere);
    },
  },
  {
    says: "a namespace has semaphores, elections and keys of bytes of its own, and answers a ping",
    run: async ({ locker, key }) => {
      const within = locker.namespace(key);
      const semaphore = within.semaphore("42", 1);
      assert.equal(semaphore.key, `${key}:42`);
      await using _permit = await semaphore.acquire();
      assert.equal(await locker.semaphore(`${key}:42`, 1).tryAcquire(), undefined);
      const ending = new AbortController();
      let ledFor: string | undefined;
      await within.elect("42", {
        signal: ending.signal,
        onElected: (lock) => {
          ledFor = lock.key;
          ending.abort();
        },
      });
      assert.equal(ledFor, `${key}:42`);
      assert.equal((await within.acquire(Buffer.of(0x37, 0xff))).key, `${key}:7\udcff`);
      await within.ping();
    },
  },
  {
    says: "a listener of a namespace hears of its keys alone",
    run: async (given) => {
      const { locker, key } = given;
      const told: string[] = [];
      locker.namespace(key).on("acquired", (event) => told.push(event.key));
      await assertFree(locker, key);
      await assertFree(locker.namespace(key), "42");
      await until(given, () => told.length > 0, "the event");
      assert.deepEqual(told, [`${key}:42`]);
    },
  },
  {
    says: "a namespace whose name could not be a key is refused, and so is an empty key in a namespace",
    run: async ({ locker, key }) => {
      assert.throws(() => locker.namespace(""), emptyKey);
      assert.throws(() => locker.namespace("\ud800"), invalidKey);
      assert.throws(() => locker.namespace(42 as unknown as string), invalid("name"));
      await assert.rejects(locker.namespace(key).acquire(""), emptyKey);
    },
  },
];
