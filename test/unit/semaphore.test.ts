import { setImmediate as nextTurn } from "node:timers/promises";
import { expect, test } from "vitest";
import {
  blockOf,
  idAt,
  permitsOf,
  placeOf,
  semaphoreBlock,
  turnstile,
} from "../../src/contract/permit-block.ts";
import { InvalidConfigError, LockerClosedError, MemoryLocker } from "../../src/index.ts";

// Tests that need no server; the rest is in test/integration/semaphore.test.ts.

test("each place of each number of permits has an id, which tells the number", () => {
  const block = blockOf(-1n);
  const seen = new Set([turnstile]);
  for (let permits = 1; permits <= 1_000; permits += 1) {
    for (const place of permits === 1_000
      ? Array.from({ length: permits }, (_, at) => at)
      : [0, permits - 1]) {
      const at = placeOf(permits, place);
      seen.add(at);
      expect(permitsOf(at)).toBe(permits);
      expect(blockOf(idAt(block, at))).toBe(block);
    }
  }
  expect(seen.size).toBe(1 + 1 + 2 * 998 + 1_000);
});

test.each([[0n], [-1n], [2n ** 63n - 1n], [-(2n ** 63n)]])(
  "the block of the id %s is of signed 64-bit ids",
  (id) => {
    const block = blockOf(id);
    expect(block <= id && id < block + 2n ** 19n).toBe(true);
    expect(block).toBe(BigInt.asIntN(64, block));
  },
);

// The ids that docs/semaphores.md promises, computed by Python's hashlib.
test.each([
  [1n, 2098301286752452608n],
  [-1n, -1084561681908498432n],
  [-(2n ** 63n), 3327874703772614656n],
])("the block of a semaphore whose key has the id %s begins at %s", (id, first) => {
  expect(semaphoreBlock(id)).toBe(first);
  expect(blockOf(first)).toBe(first);
});

test("a MemoryLocker has semaphores as well", async () => {
  await using locker = new MemoryLocker({ ttlEnforcement: "server" });
  const { acquire, tryAcquire, withPermit, tryWithPermit } = locker.semaphore("key", 2);
  const [first, second] = [await acquire(), await acquire({ ttl: 500 })];
  expect(await tryAcquire()).toBeUndefined();
  expect(await tryWithPermit(() => 1)).toEqual({ acquired: false });
  await expect(locker.semaphore("key", 3).acquire()).rejects.toThrow(InvalidConfigError);
  // The TTL of the second one passes.
  const third = await acquire({ wait: "5s" });
  expect(second.expired).toBe(true);
  const order: number[] = [];
  const waits = [1, 2, 3].map((which) => withPermit(() => void order.push(which), { wait: "5s" }));
  await nextTurn();
  await first.release();
  await Promise.all(waits);
  expect(order).toEqual([1, 2, 3]);
  await third.release();
  await (await locker.semaphore("key", 3).acquire()).release();
});

test("a close at whatever step of a wait for a permit rejects it", async () => {
  for (let step = 0; step < 60; step += 1) {
    const locker = new MemoryLocker();
    const semaphore = locker.semaphore("key", 1);
    await semaphore.acquire();
    const waiting = semaphore.acquire({ wait: true }).catch((error: unknown) => error);
    for (let i = 0; i < step; i += 1) await Promise.resolve();
    await locker.close();
    expect(await waiting).toBeInstanceOf(LockerClosedError);
  }
});

test("a waiter that is aborted at whatever step leaves its turn to the next one", async () => {
  for (let step = 0; step < 60; step += 1) {
    await using locker = new MemoryLocker();
    const semaphore = locker.semaphore("key", 1);
    const permit = await semaphore.acquire();
    const aborting = new AbortController();
    const first = semaphore.acquire({ wait: true, signal: aborting.signal });
    const second = semaphore.acquire({ wait: true });
    await nextTurn();
    const released = permit.release();
    for (let i = 0; i < step; i += 1) await Promise.resolve();
    aborting.abort("left");
    await released;
    await first.then(
      (granted) => granted.release(),
      (error: unknown) => expect(error).toBe("left"),
    );
    await (await second).release();
  }
});
