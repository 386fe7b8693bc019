import { setImmediate as nextTurn } from "node:timers/promises";
import { expect, test, vi } from "vitest";
import {
  type AcquireOptions,
  type Lock,
  LockerClosedError,
  LockLostError,
  MemoryLocker,
} from "../../src/index.ts";

// Tests that need no server; the rest is in test/integration/with-lock.test.ts and in the contract suite.

test("a close at whatever step of a withLock rejects it, though fn never settles", async () => {
  const outcomes: unknown[] = [];
  for (let step = 0; step < 60; step += 1) {
    const locker = new MemoryLocker();
    const running = locker.withLock("key", () => new Promise(() => {})).catch((error: unknown) => error);
    for (let i = 0; i < step; i += 1) await Promise.resolve();
    await locker.close();
    await nextTurn();
    outcomes.push(await Promise.race([running, `still running, closed after step ${step}`]));
  }
  for (const outcome of outcomes) {
    expect(outcome instanceof LockerClosedError || outcome instanceof LockLostError, String(outcome)).toBe(
      true,
    );
  }
  expect(outcomes[0]).toBeInstanceOf(LockerClosedError);
  expect(outcomes.at(-1)).toBeInstanceOf(LockLostError);
});

test("fn does not run under a lock that is lost before its turn", async () => {
  for (let step = 0; step < 60; step += 1) {
    const locker = new MemoryLocker();
    let seen: boolean | undefined;
    const running = locker.withLock("key", (lock: Lock) => {
      seen = lock.signal.aborted;
    });
    running.catch(() => {});
    for (let i = 0; i < step; i += 1) await Promise.resolve();
    await locker.close();
    await running.catch(() => {});
    expect(seen).not.toBe(true);
  }
});

test("a waiter aborted at any step of its turn passes the turn on at once", async () => {
  for (let step = 0; step < 30; step += 1) {
    const locker = new MemoryLocker();
    const lock = await locker.acquire("key");
    const aborting = new AbortController();
    const first = locker.acquire("key", { wait: true, signal: aborting.signal });
    const second = locker.acquire("key", { wait: true });
    await nextTurn();
    const released = lock.release();
    for (let i = 0; i < step; i += 1) await Promise.resolve();
    aborting.abort(new Error("the caller left"));
    await released;
    await first.then(
      (granted) => granted.release(),
      () => {},
    );
    await nextTurn();
    const waits = Symbol("still waiting");
    const outcome = await Promise.race([second, waits]);
    expect(outcome, `aborted after step ${step}`).not.toBe(waits);
    await locker.close();
    await second;
  }
});

test("an undefined `autoRefresh` counts as not given", async () => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date", "performance"] });
  try {
    const locker = new MemoryLocker();
    const options = { ttl: "1s", autoRefresh: undefined } as unknown as AcquireOptions;
    const held = (lock: Lock) => vi.advanceTimersByTimeAsync(5_000).then(() => lock.held);
    expect(await locker.withLock("key", held, options)).toBe(true);
    expect(await locker.tryWithLock("key", held, options)).toEqual({ acquired: true, value: true });
    await locker.close();
  } finally {
    vi.useRealTimers();
  }
});

test.each([[["a"]], [["a", "b", "c", "d"]]])(
  "a close at any step of acquireAll(%j) ends it, and all that it had acquired",
  async (keys) => {
    for (let step = 0; step < 120; step += 1) {
      const locker = new MemoryLocker();
      const taking = locker.acquireAll(keys, step % 2 === 0 ? {} : { wait: true });
      const outcome = taking.catch((error: unknown) => error as Error);
      for (let i = 0; i < step; i += 2) await Promise.resolve();
      await locker.close();
      const group = await outcome;
      if (group instanceof Error) {
        expect(group instanceof LockerClosedError || group instanceof LockLostError, String(group)).toBe(
          true,
        );
      } else {
        expect([group.held, group.signal.aborted], `closed after step ${step}`).toEqual([false, true]);
      }
    }
  },
);

test.each([
  ["that can't be extended", () => Object.freeze(new Error("its own"))],
  [
    "that has kept another already",
    () => Object.assign(new Error("its own"), { suppressed: "an earlier one" }),
  ],
  [
    "whose `suppressed` can't be changed",
    () => Object.defineProperty(new Error("its own"), "suppressed", { value: "an earlier one" }),
  ],
])("an error of fn %s is passed on as it is, whatever the release says", async (_, make) => {
  const locker = new MemoryLocker();
  const error = make();
  const earlier = "suppressed" in error ? error.suppressed : undefined;
  const running = locker.withLock("key", async (lock) => {
    await lock.release();
    throw error;
  });
  expect(await running.catch((reason: unknown) => reason)).toBe(error);
  expect((error as { suppressed?: unknown }).suppressed).toBe(earlier);
  await locker.close();
});
