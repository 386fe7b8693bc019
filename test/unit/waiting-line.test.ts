import { getEventListeners } from "node:events";
import { expect, test } from "vitest";
import { MemoryLocker } from "../../src/index.ts";

// Callers in line behind the first, each of which is a single object, without a promise of its own.

test("a caller in line leaves it in the very step in which its signal aborts", async () => {
  const locker = new MemoryLocker();
  const held = await locker.acquire("key");
  const first = locker.acquire("key", { wait: true });
  const stop = new AbortController();
  const second = locker.acquire("key", { wait: true, signal: stop.signal });
  const third = locker.acquire("key", { wait: true });
  expect(locker.stats().waiting).toBe(3);
  const reason = new Error("enough");
  stop.abort(reason);
  expect(locker.stats().waiting).toBe(2);
  expect(getEventListeners(stop.signal, "abort")).toEqual([]);
  await expect(second).rejects.toBe(reason);
  await held.release();
  await (await first).release();
  await (await third).release();
  expect(locker.stats()).toMatchObject({ locks: 0, waiting: 0, inFlight: 0 });
});

test("a caller whose signal aborts as its turn comes hands the turn on", async () => {
  const secondStop = new AbortController();
  const quiet = (): void => {};
  // Called in the step in which the first caller has left the line: now it is the second one's turn, which begins in a step of its own.
  const debug = (): void => secondStop.abort("second");
  const locker = new MemoryLocker({ logger: { debug, info: quiet, warn: quiet, error: quiet } });
  const held = await locker.acquire("key");
  const firstStop = new AbortController();
  const first = locker.acquire("key", { wait: true, signal: firstStop.signal });
  const second = locker.acquire("key", { wait: true, signal: secondStop.signal });
  const third = locker.acquire("key", { wait: true });
  firstStop.abort("first");
  await expect(first).rejects.toBe("first");
  await expect(second).rejects.toBe("second");
  await held.release();
  await (await third).release();
  expect(locker.stats()).toMatchObject({ locks: 0, waiting: 0, inFlight: 0 });
});

test("close() ends a thousand in line, whatever order they are in, and leaves none", async () => {
  const locker = new MemoryLocker();
  await locker.acquire("key");
  const waiting = Array.from({ length: 1_000 }, (_, at) =>
    locker.acquire("key", { wait: at % 2 === 0 ? true : "1h", mode: at % 3 === 0 ? "shared" : "exclusive" }),
  );
  const closed = locker.close();
  const answers = await Promise.allSettled(waiting);
  await closed;
  for (const answer of answers) expect(answer).toMatchObject({ reason: { code: "LOCKER_CLOSED" } });
  expect(locker.stats()).toMatchObject({ waiting: 0, inFlight: 0, closed: true });
});

test("a signal that has aborted already keeps its caller out of the line", async () => {
  const locker = new MemoryLocker();
  const held = await locker.acquire("key");
  const signal = AbortSignal.abort("before");
  await expect(locker.acquire("key", { wait: true, signal })).rejects.toBe("before");
  expect(locker.stats()).toMatchObject({ waiting: 0, inFlight: 0 });
  await held.release();
});
