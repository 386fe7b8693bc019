import assert from "node:assert/strict";
import type { LockKey } from "../../contract/lock-key.ts";
import { assertFree, type Case, emptyKey, type Given, heldElsewhere, invalidKey } from "./fixture.ts";

/** A key that ends with a byte that is no UTF-8. */
const ending = (key: string, last: number): Uint8Array => Buffer.concat([Buffer.from(key), Buffer.of(last)]);

/** Cases about what may be a key, and which keys are the same. */
export const keyCases: readonly Case[] = [
  {
    says: "a key has the same id each time",
    run: async ({ locker, key }) => {
      const { id } = await locker.acquire(key, { mode: "shared" });
      assert.equal((await locker.acquire(key, { mode: "shared" })).id, id);
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
    says: "an empty key is refused",
    run: async ({ locker }) => {
      for (const key of ["", new Uint8Array()]) {
        await assert.rejects(locker.acquire(key), emptyKey);
        await assert.rejects(locker.tryAcquire(key), emptyKey);
      }
    },
  },
  ...[42, null, "\ud800"].map((key) => ({
    says: `the key ${JSON.stringify(key)} is refused`,
    run: async ({ locker }: Given) => {
      await assert.rejects(locker.acquire(key as string), invalidKey);
      await assert.rejects(locker.tryAcquire(key as string), invalidKey);
    },
  })),
  {
    says: "the bytes of a string are the same key as the string",
    run: async ({ locker, key }) => {
      const lock = await locker.acquire(Buffer.from(key));
      assert.equal(lock.key, key);
      await assert.rejects(locker.acquire(key), heldElsewhere);
      await lock.release();
      assert.equal((await locker.acquire(key)).id, lock.id);
    },
  },
  {
    says: "other bytes are keys of their own, shown with a lone surrogate for each byte that isn't UTF-8",
    run: async ({ locker, key }) => {
      const one = await locker.acquire(ending(key, 0xfe));
      const other = await locker.acquire(ending(key, 0xff));
      assert.deepEqual([one.key, other.key], [`${key}\udcfe`, `${key}\udcff`]);
      assert.notEqual(one.id, other.id);
      await assert.rejects(locker.acquire(ending(key, 0xff)), heldElsewhere);
      await assertFree(locker, key);
    },
  },
  {
    says: "a caller may change the bytes of its key after the call",
    run: async ({ locker, key }) => {
      const bytes = ending(key, 0xfe);
      const unchanged: LockKey = Uint8Array.from(bytes);
      const holder = await locker.acquire(bytes);
      const waiting = locker.acquire(bytes, { wait: true });
      bytes.fill(0);
      await holder.release();
      assert.equal((await waiting).id, holder.id);
      await assert.rejects(locker.acquire(unchanged), heldElsewhere);
    },
  },
];
