import { AsyncLocalStorage } from "node:async_hooks";
import { describe, expect, test } from "vitest";
import { MemoryLocker } from "../../src/index.ts";
import { holdersOf, onServer, uniqueKey } from "../support/database.ts";
import { eachLocker } from "../support/each-locker.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

// One timer, statement or socket serves several callers. What belongs to a caller runs in its own async context, and a listener in none;
// nothing runs in another caller's.

const context = new AsyncLocalStorage<string>();
const callers = ["A", "B", "C"];

describe.each(eachLocker)("%s", (_, create) => {
  test("functions and awaits are in their caller's context, listeners in none", async () => {
    await using locker = create();
    await (await locker.acquire(uniqueKey())).release();
    const key = uniqueKey();
    const signals: unknown[] = [];
    const events: unknown[] = [];
    for (const event of ["acquired", "released", "lost", "waiting"] as const) {
      locker.on(event, () => events.push(context.getStore()));
    }
    const own = async (name: string): Promise<unknown[]> => {
      const seen: unknown[] = [];
      const see = (): unknown => seen.push(context.getStore());
      await locker.withLock(key, see, { wait: true });
      see();
      const lock = await locker.acquire(`${key}:${name}`, { ttl: 400 });
      see();
      lock.signal.addEventListener("abort", () => signals.push(context.getStore()));
      await until(() => lock.signal.aborted);
      see();
      await expect(lock.release()).rejects.toThrow("TTL passed");
      await locker.semaphore(key, 1).withPermit(see, { wait: true });
      return seen;
    };
    const seen = await Promise.all(callers.map((name) => context.run(name, () => own(name))));
    expect(seen).toEqual(callers.map((name) => Array(5).fill(name)));
    expect(signals).toEqual([undefined, undefined, undefined]);
    await until(() => events.length >= 12);
    expect(new Set(events)).toEqual(new Set([undefined]));
  });
});

test("the holders of a session that is lost are told in no caller's context", async () => {
  await using locker = createLocker();
  const told: unknown[] = [];
  const locks = await Promise.all(
    callers.map((name) => context.run(name, () => locker.acquire(uniqueKey(), { autoRefresh: true }))),
  );
  for (const lock of locks) lock.signal.addEventListener("abort", () => told.push(context.getStore()));
  for (const pid of await holdersOf(locks[0]?.id ?? 0n))
    await onServer("select pg_terminate_backend($1)", [pid]);
  await until(() => told.length === callers.length);
  expect(told).toEqual([undefined, undefined, undefined]);
});

test("an expiry takes no stranger into the function that happened to set its timer", async () => {
  const locker = new MemoryLocker();
  let end = (): void => {};
  const work = new Promise<void>((resolve) => {
    end = resolve;
  });
  let taken: Promise<string> | undefined;
  const running = locker.withLock("key", async () => {
    // Sets the timer of all locks with this TTL.
    await locker.acquire("first", { ttl: 100 });
    await work;
    return "inside";
  });
  const stranger = await locker.acquire("second", { ttl: 100 });
  stranger.signal.addEventListener("abort", () => {
    taken = locker.withLock("key", () => "a stranger", { reentrant: true }).catch(() => "refused");
  });
  await until(() => taken !== undefined);
  expect(await taken).toBe("refused");
  end();
  expect(await running).toBe("inside");
  await locker.close();
});
