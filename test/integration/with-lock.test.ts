import { describe, expect, test } from "vitest";
import { type Lock, LockLostError, LockNotAcquiredError } from "../../src/index.ts";
import { createPool, terminateHolder, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test("fn gets a held lock, its result comes back, and the lock is released", async () => {
    await using locker = createLocker({ sessions });
    const key = uniqueKey();
    let seen: Lock | undefined;
    const answer = await locker.withLock(key, (lock) => {
      seen = lock;
      expect(lock.held).toBe(true);
      return 42;
    });
    expect(answer).toBe(42);
    expect(seen?.held).toBe(false);
    expect(seen?.signal.aborted).toBe(false);
    await locker.withLock(key, () => {});
  });

  test.each([
    ["rejects", async () => Promise.reject(new Error("mine"))],
    [
      "throws before it makes a promise",
      () => {
        throw new Error("mine");
      },
    ],
  ])("an fn that %s has its lock released and its error passed on", async (_, fn) => {
    await using locker = createLocker({ sessions });
    const key = uniqueKey();
    await expect(locker.withLock(key, fn)).rejects.toThrow("mine");
    await locker.withLock(key, () => {});
  });

  test("an fn that throws undefined rejects with undefined", async () => {
    await using locker = createLocker({ sessions });
    const outcome = locker.withLock(uniqueKey(), () => Promise.reject(undefined));
    await expect(outcome.catch((error) => ({ error }))).resolves.toEqual({ error: undefined });
  });

  test("a contended withLock does not run fn", async () => {
    await using locker = createLocker({ sessions });
    const key = uniqueKey();
    await using _held = await locker.acquire(key);
    let ran = false;
    const fn = (): void => {
      ran = true;
    };
    await expect(locker.withLock(key, fn)).rejects.toThrow(LockNotAcquiredError);
    expect(await locker.tryWithLock(key, fn)).toEqual({ acquired: false });
    expect(ran).toBe(false);
  });

  test("tryWithLock returns what fn returns", async () => {
    await using locker = createLocker({ sessions });
    expect(await locker.tryWithLock(uniqueKey(), async () => "done")).toEqual({
      acquired: true,
      value: "done",
    });
  });

  test("the loss of the lock rejects at once, though fn never settles", async () => {
    await using locker = createLocker({ sessions });
    const running = locker.withLock(uniqueKey(), async (lock) => {
      await terminateHolder(lock.id);
      await new Promise(() => {});
    });
    await expect(running).rejects.toThrow(LockLostError);
  });

  test("the loss of the lock rejects, though fn ignores it and succeeds", async () => {
    await using locker = createLocker({ sessions });
    const running = locker.withLock(uniqueKey(), async (lock) => {
      await terminateHolder(lock.id);
      await until(() => !lock.held);
      return "done";
    });
    await expect(running).rejects.toThrow(LockLostError);
  });

  test("an error of fn wins over one of the release, and carries it", async () => {
    const pool = createPool();
    await using locker = createLocker({ sessions, pool });
    const captured = new Promise<{ query(text: string): Promise<unknown> }>((resolve) =>
      pool.once("acquire", resolve),
    );
    const error = await locker
      .withLock(uniqueKey(), async () => {
        await (await captured).query("select pg_advisory_unlock_all()");
        throw new Error("mine");
      })
      .catch((reason: unknown) => reason);
    expect(error).toMatchObject({
      message: "mine",
      suppressed: { name: "LockNotHeldError", reason: "lost" },
    });
  });

  test("a lock is refreshed while fn runs, far past its TTL", async () => {
    await using locker = createLocker({ sessions });
    const held = await locker.withLock(
      uniqueKey(),
      async (lock) => {
        const end = performance.now() + 1_500;
        await until(() => performance.now() > end || !lock.held);
        return lock.held;
      },
      { ttl: "300ms" },
    );
    expect(held).toBe(true);
  });

  test("an auto-refreshed lock is no longer refreshed once it is released", async () => {
    await using locker = createLocker({ sessions });
    const lock = await locker.acquire(uniqueKey(), { ttl: "100ms", autoRefresh: true });
    await until(() => lock.held);
    await lock.release();
    expect(lock.held).toBe(false);
    expect(lock.signal.aborted).toBe(false);
  });
});
