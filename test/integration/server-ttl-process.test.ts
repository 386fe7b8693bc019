import { afterEach, describe, expect, test, vi } from "vitest";
import { LockExpiredError, LockNotHeldError } from "../../src/index.ts";
import { advisoryLocks, createPool, databaseUrl, uniqueKey } from "../support/database.ts";
import {
  endUnheard,
  enforcedHolders,
  expectOrder,
  expiredUnseen,
  instant,
  isEnd,
  takeOver,
} from "../support/enforced-holder.ts";
import { costlyModes } from "../support/session-modes.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// A TTL that the server enforces, when a holder's process or its clock fails: the holder stops relying on its lock before the next holder
// is granted it. Holders are processes; every instant is read from the machine's monotonic clock, in nanoseconds.

afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

describe.each(costlyModes)("with %s sessions", (sessions) => {
  const { enforced, hold } = enforcedHolders(sessions);

  describe("a holder whose process fails", () => {
    test.each([false, true])("is killed (autoRefresh: %s): a waiter has the lock", async (autoRefresh) => {
      await using locker = enforced();
      const key = uniqueKey();
      await using holder = await hold(key, { ttl: 700, autoRefresh });
      let isGranted = false;
      const waited = locker.acquire(key, { wait: "20s", ttl: "1m" }).then((lock) => {
        isGranted = true;
        return { lock, at: instant() };
      });
      // On a busy machine, the TTL of a holder that doesn't refresh may pass before anybody waits: the order is the same.
      const isWaiting = async () => (await advisoryLocks()).some(({ granted }) => !granted);
      await until(async () => isGranted || (await isWaiting()), { deadline: 20_000 });
      holder.signal("SIGKILL");
      await holder.exited;
      const { lock, at } = await waited;
      expectOrder(holder, at);
      await lock.release();
    });

    test("is killed, and its host says nothing of it: the server has only the TTL", async () => {
      await using locker = enforced();
      const key = uniqueKey();
      await using proxy = await TcpProxy.start(databaseUrl());
      await using holder = await hold(key, { ttl: 700, autoRefresh: true }, proxy.url);
      proxy.freeze();
      holder.signal("SIGKILL");
      await holder.exited;
      expect(proxy.size).toBeGreaterThanOrEqual(1);
      const { lock, at } = await takeOver(locker, key);
      expectOrder(holder, at);
      await lock.release();
    });

    test.each([false, true])(
      "is stopped until the next has the lock (autoRefresh: %s): it is told so",
      async (autoRefresh) => {
        await using locker = enforced();
        const key = uniqueKey();
        await using holder = await hold(key, { ttl: 700, autoRefresh });
        holder.signal("SIGSTOP");
        const { lock, at } = await takeOver(locker, key);
        holder.signal("SIGCONT");
        expect(await holder.message(isEnd)).toMatchObject({
          held: false,
          asserted: "LOCK_NOT_HELD",
          refreshed: "LOCK_NOT_HELD",
          released: "LOCK_NOT_HELD",
          aborted: true,
        });
        await holder.message((message) => ["LOCK_EXPIRED", "LOCK_LOST"].includes(String(message["aborted"])));
        expectOrder(holder, at);
        expect(lock.held).toBe(true);
        await lock.release();
      },
    );

    test("is stopped in a synchronous loop: held is false when it is next read", async () => {
      await using locker = enforced();
      const key = uniqueKey();
      await using holder = await hold(key, { ttl: 700, autoRefresh: true });
      holder.send({ poll: true });
      await holder.message((message) => "polling" in message);
      holder.signal("SIGSTOP");
      const { lock, at } = await takeOver(locker, key);
      holder.signal("SIGCONT");
      expect(await holder.message(isEnd)).toMatchObject(expiredUnseen);
      expectOrder(holder, at);
      await lock.release();
    });

    test.each([false, true])(
      "blocks its event loop (autoRefresh: %s): it doesn't hold right after",
      async (autoRefresh) => {
        await using locker = enforced();
        const key = uniqueKey();
        await using holder = await hold(key, { ttl: 700, autoRefresh });
        holder.send({ block: 2_000 });
        await holder.message((message) => "blocking" in message);
        const { lock, at } = await takeOver(locker, key);
        expect(await holder.message(isEnd)).toMatchObject(expiredUnseen);
        expectOrder(holder, at);
        expect(lock.held).toBe(true);
        await lock.release();
      },
    );

    test("never yields, and reads held: it stops relying on the lock by the clock alone", async () => {
      await using locker = enforced();
      const key = uniqueKey();
      await using holder = await hold(key, { ttl: 700, autoRefresh: true });
      holder.send({ poll: true });
      const { lock, at } = await takeOver(locker, key);
      expect(await holder.message(isEnd)).toMatchObject(expiredUnseen);
      expectOrder(holder, at);
      await lock.release();
    });
  });

  describe("a holder whose wall clock is set", () => {
    test("forward stops relying on it at once; the next has the lock long before the TTL", async () => {
      await using locker = enforced();
      const key = uniqueKey();
      await using holder = await hold(key, { ttl: "1h" });
      holder.send({ jump: 2 * 3_600_000 });
      expect(await holder.message(isEnd)).toMatchObject({
        held: false,
        expired: true,
        asserted: "LOCK_NOT_HELD",
      });
      const { lock, at } = await takeOver(locker, key);
      expectOrder(holder, at);
      await lock.release();
    });

    test("forward finds held false in the same step, without a timer", async () => {
      await using locker = enforced();
      const lock = await locker.acquire(uniqueKey(), { ttl: "1h" });
      const { signal } = lock;
      const wall = Date.now();
      vi.spyOn(Date, "now").mockImplementation(() => wall + 2 * 3_600_000);
      expect([lock.held, lock.expired, signal.aborted]).toEqual([false, true, false]);
      expect(() => lock.assertHeld()).toThrow(LockNotHeldError);
      await expect(lock.release()).rejects.toMatchObject({ reason: "expired" });
      expect(signal.reason).toBeInstanceOf(LockExpiredError);
    });

    test("forward during a refresh is not undone by its answer", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      await using locker = enforced(createPool({ connectionString: proxy.url }));
      const lock = await locker.acquire(uniqueKey(), { ttl: "1h" });
      const { signal } = lock;
      proxy.freeze({ direction: "toClient" });
      const refreshed = lock.refresh("3h").catch((error: unknown) => error);
      await new Promise(setImmediate); // Let it be sent.
      const wall = Date.now();
      vi.spyOn(Date, "now").mockImplementation(() => wall + 2 * 3_600_000);
      expect([lock.held, lock.expired]).toEqual([false, true]);
      proxy.thaw();
      expect(await refreshed).toMatchObject({ code: "LOCK_NOT_HELD", reason: "expired" });
      expect([lock.held, lock.expired, signal.aborted]).toEqual([false, true, true]);
    });

    test("back relies on it no longer than before", async () => {
      await using locker = enforced();
      const key = uniqueKey();
      await using proxy = await TcpProxy.start(databaseUrl());
      await using holder = await hold(key, { ttl: 700 }, proxy.url);
      holder.send({ jump: -3_600_000 });
      proxy.freeze();
      const { lock, at } = await takeOver(locker, key);
      await endUnheard(holder, proxy);
      expect(await holder.message(isEnd)).toMatchObject({ held: false, asserted: "LOCK_NOT_HELD" });
      expectOrder(holder, at);
      await lock.release();
    });
  });
});
