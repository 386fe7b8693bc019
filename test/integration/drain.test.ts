import { expect, test } from "vitest";
import { InvalidConfigError, LockerClosedError, MemoryLocker } from "../../src/index.ts";
import { advisoryLocks, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

// close({ drain }): nothing new is acquired, held locks are waited for, and then the locker is closed.

const sleep = (milliseconds: number): Promise<void> =>
  new Promise((resolve) => setTimeout(resolve, milliseconds));

test("a drain lets the functions of withLock end, with their locks held until then", async () => {
  const locker = createLocker();
  const ended: boolean[] = [];
  let begun = 0;
  const work = Array.from({ length: 20 }, (_, at) =>
    locker.withLock(uniqueKey(), async (lock) => {
      begun += 1;
      await sleep(100 + 10 * at);
      ended.push(lock.held && !lock.signal.aborted);
      return at;
    }),
  );
  await until(() => begun === 20);
  await locker.close({ drain: "10s" });
  expect(ended).toEqual(Array(20).fill(true));
  expect(await Promise.all(work)).toEqual(Array.from({ length: 20 }, (_, at) => at));
});

test("a drain ends as soon as the last lock is released, not at its bound", async () => {
  const locker = createLocker();
  const [lock, group] = [
    await locker.acquire(uniqueKey()),
    await locker.acquireAll([uniqueKey(), uniqueKey()]),
  ];
  const start = performance.now();
  const closing = locker.close({ drain: "1m" });
  await sleep(50);
  await lock.release();
  await group.release();
  await closing;
  expect(performance.now() - start).toBeLessThan(10_000);
});

test("a drain acquires nothing new, tells waiters at once, and allows refreshes", async () => {
  const locker = createLocker();
  const lock = await locker.acquire(uniqueKey());
  const waiting = locker.acquire(lock.key, { wait: true }).catch((error: unknown) => error);
  const closing = locker.close({ drain: "20s" });
  expect(await waiting).toBeInstanceOf(LockerClosedError);
  await expect(locker.acquire(uniqueKey())).rejects.toThrow(LockerClosedError);
  await expect(locker.tryAcquire(uniqueKey())).rejects.toThrow(LockerClosedError);
  await expect(locker.acquireAll([uniqueKey()])).rejects.toThrow(LockerClosedError);
  await expect(locker.ping()).rejects.toThrow(LockerClosedError);
  await lock.refresh("1m");
  expect([lock.held, lock.signal.aborted]).toEqual([true, false]);
  await lock.release();
  await closing;
});

test("during a drain, a lock goes on refreshing itself, for longer than its TTL", async () => {
  const locker = createLocker({ ttlEnforcement: "server" });
  const lock = await locker.acquire(uniqueKey(), { ttl: 300, autoRefresh: true });
  const closing = locker.close({ drain: "20s" });
  await sleep(900);
  expect(lock.held).toBe(true);
  await lock.release();
  await closing;
});

test("at the bound of a drain, what is still held is freed, and its signal aborts", async () => {
  const locker = createLocker();
  const lock = await locker.acquire(uniqueKey(), { autoRefresh: true });
  const start = performance.now();
  await locker.close({ drain: 200 });
  expect(performance.now() - start).toBeGreaterThanOrEqual(190);
  expect([lock.held, lock.signal.aborted]).toEqual([false, true]);
  expect(await advisoryLocks()).toEqual([]);
});

test("a drain doesn't wait for a lock that expires or is lost in the meantime", async () => {
  const locker = createLocker();
  await locker.acquire(uniqueKey(), { ttl: 500 });
  const start = performance.now();
  await locker.close({ drain: "1m" });
  expect(performance.now() - start).toBeLessThan(10_000);
  expect(await advisoryLocks()).toEqual([]);
});

test("with nothing held, closing with a drain takes no longer than without", async () => {
  const locker = createLocker();
  await (await locker.acquire(uniqueKey())).release();
  const start = performance.now();
  await locker.close({ drain: "1m" });
  expect(performance.now() - start).toBeLessThan(10_000);
});

test("a second close() resolves with the first, whatever its options", async () => {
  const locker = createLocker();
  const lock = await locker.acquire(uniqueKey());
  const closing = locker.close({ drain: "20s" });
  expect(locker.close()).toBe(closing);
  expect(locker.close({ drain: -1 })).toBe(closing);
  await sleep(50);
  expect(lock.held).toBe(true);
  await lock.release();
  await closing;
});

test("an acquire under way when a drain begins leaves nothing behind", async () => {
  for (let round = 0; round < 10; round += 1) {
    const locker = createLocker();
    const acquiring = locker.acquire(uniqueKey());
    await sleep(round / 2);
    const closing = locker.close({ drain: "10s" });
    await acquiring.then(
      (lock) => lock.release(),
      (error: unknown) => expect(error).toBeInstanceOf(LockerClosedError),
    );
    await closing;
    expect(await advisoryLocks()).toEqual([]);
  }
});

test("a drain lets a transaction end", async () => {
  const locker = createLocker();
  let began = false;
  const work = locker.withTransaction(uniqueKey(), async (client) => {
    began = true;
    await sleep(200);
    return (await client.query("select 7 as seven")).rows;
  });
  await until(() => began);
  await locker.close({ drain: "10s" });
  expect(await work).toEqual([{ seven: 7 }]);
});

test("a drain of a MemoryLocker is the same", async () => {
  const locker = new MemoryLocker();
  const work = locker.withLock("k", async (lock) => {
    await sleep(50);
    return lock.held;
  });
  await sleep(5);
  await locker.close({ drain: "10s" });
  expect(await work).toBe(true);
});

test.each([
  ["a negative one", { drain: -1 }],
  ["a string without a unit", { drain: "20" }],
  ["one without an end", { drain: Number.POSITIVE_INFINITY }],
  ["true", { drain: true }],
  ["a misspelt option", { drian: "20s" }],
  ["no object", "20s"],
])("a bad `drain` is refused in one sentence, and nothing is closed: %s", async (_, options) => {
  await using locker = createLocker();
  const lock = await locker.acquire(uniqueKey());
  await expect(locker.close(options as never)).rejects.toThrow(InvalidConfigError);
  expect(lock.held).toBe(true);
  await (await locker.acquire(uniqueKey())).release();
  await lock.release();
});
