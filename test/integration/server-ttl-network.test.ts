import { describe, expect, test } from "vitest";
import { DatabaseError, lockId } from "../../src/index.ts";
import {
  advisoryLocks,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
} from "../support/database.ts";
import {
  endUnheard,
  enforcedHolders,
  expectOrder,
  instant,
  isAbort,
  isEnd,
  lastHeldAt,
  takeOver,
} from "../support/enforced-holder.ts";
import { costlyModes } from "../support/session-modes.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// A TTL that the server enforces, when a holder's network fails: the holder stops relying on its lock before the next holder is granted it.
// Holders are processes; every instant is read from the machine's monotonic clock, in nanoseconds.

describe.each(costlyModes)("with %s sessions", (sessions) => {
  const { enforced, ready, hold } = enforcedHolders(sessions);

  describe("a holder whose network fails", () => {
    // It refreshes at a third of its TTL at the latest, and gives up on the answer when a tenth of the rest is left.
    test.each([
      ["swallows what is sent to the server", "toServer"],
      ["swallows what is sent to the client", "toClient"],
      ["swallows everything", undefined],
    ] as const)(
      "%s: it stops relying on it before the next has the lock, and its signal aborts",
      async (_what, direction) => {
        await using locker = enforced();
        const key = uniqueKey();
        await using proxy = await TcpProxy.start(databaseUrl());
        await using holder = await hold(key, { ttl: 3_000, autoRefresh: true }, proxy.url);
        proxy.freeze(direction === undefined ? {} : { direction });
        const { lock, at } = await takeOver(locker, key);
        // The signal comes from a timer, which is late on a busy machine; the moment that it stands for is not: see the order.
        const { aborted } = await holder.message(isAbort);
        // Locks on a shared session are proved together, but each expires by itself.
        expect(aborted).toBe(sessions === "dedicated" ? "LOCK_LOST" : "LOCK_EXPIRED");
        await holder.message(isEnd);
        expectOrder(holder, at);
        await lock.release();
      },
    );

    test("swallows everything without a refresh: it stops before the next has the lock", async () => {
      await using locker = enforced();
      const key = uniqueKey();
      await using proxy = await TcpProxy.start(databaseUrl());
      await using holder = await hold(key, { ttl: 700 }, proxy.url);
      proxy.freeze();
      const { lock, at } = await takeOver(locker, key);
      expect(await endUnheard(holder, proxy)).toMatchObject({ aborted: "LOCK_EXPIRED" });
      expectOrder(holder, at);
      await lock.release();
    });

    test("delays every packet: the TTL counts from the sending, not from the answer", async () => {
      await using locker = enforced();
      const key = uniqueKey();
      await using proxy = await TcpProxy.start(databaseUrl());
      await using holder = await ready(key, { ttl: 1_500 }, proxy.url);
      // The server frees the lock 1,800 ms after the sending; a holder that counts from the answer would rely on it until 2,100 ms.
      proxy.delay(300);
      holder.send({ acquire: true });
      await holder.message((message) => "heldAt" in message);
      proxy.freeze();
      const { lock, at } = await takeOver(locker, key);
      await endUnheard(holder, proxy);
      expectOrder(holder, at);
      await lock.release();
    });

    test("delays every packet, and then swallows them: the same for what a refresh proved", async () => {
      await using locker = enforced();
      const key = uniqueKey();
      await using proxy = await TcpProxy.start(databaseUrl());
      await using holder = await hold(key, { ttl: 1_500, autoRefresh: true }, proxy.url);
      proxy.delay(200);
      const another = await locker.acquire(uniqueKey(), { ttl: 1_600 });
      await until(() => !another.held);
      expect(await locker.tryAcquire(key)).toBeUndefined();
      proxy.freeze();
      const { lock, at } = await takeOver(locker, key);
      await endUnheard(holder, proxy);
      expectOrder(holder, at);
      await lock.release();
    });

    test("delays every packet by more than the TTL: nothing is acquired, and nothing held", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      const pool = createPool({ connectionString: proxy.url });
      await using locker = enforced(pool);
      await (await locker.acquire(uniqueKey(), { ttl: 300 })).release();
      proxy.delay(200);
      await expect(locker.acquire(uniqueKey(), { ttl: 300 })).rejects.toBeInstanceOf(DatabaseError);
      expect(pool.totalCount).toBe(0);
      await until(async () => (await advisoryLocks()).length === 0);
    });

    // The proof that locks are kept comes after the grant, and takes five or more round trips, two of them to connect. By then the TTL of
    // the very first lock has passed, and its caller would get a handle that never held.
    test("delays every packet: the first lock of a locker is held when its caller gets it", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      const pool = createPool({ connectionString: proxy.url });
      await pool.query("select 1");
      await using locker = enforced(pool);
      proxy.delay(100);
      const lock = await locker.acquire(uniqueKey(), { ttl: 800 });
      expect(lock.held).toBe(true);
      await lock.release();
    });

    test("closes the half that leads to it: it stops first, and ends the session", async () => {
      await using locker = enforced();
      const key = uniqueKey();
      await using proxy = await TcpProxy.start(databaseUrl());
      await using holder = await hold(key, { ttl: "1h", autoRefresh: true }, proxy.url);
      proxy.halfClose("toClient");
      const { lock, at } = await takeOver(locker, key);
      const { aborted, at: abortedAt } = await holder.message(isAbort);
      expect(aborted).toBe("LOCK_LOST");
      await holder.message(isEnd);
      expectOrder(holder, at);
      expect(BigInt(String(abortedAt))).toBeLessThan(at);
      await lock.release();
    });

    // Here the server frees the lock before its TTL, because of somebody else. No order is promised, only that both get to know.
    test.each([
      ["closes the half that leads to the server", (proxy: TcpProxy) => proxy.halfClose("toServer")],
      ["resets the connection", (proxy: TcpProxy) => proxy.cut()],
    ])("%s: its signal aborts, and the next has the lock", async (_what, fail) => {
      await using locker = enforced();
      const key = uniqueKey();
      await using proxy = await TcpProxy.start(databaseUrl());
      await using holder = await hold(key, { ttl: "1h", autoRefresh: true }, proxy.url);
      fail(proxy);
      const { lock } = await takeOver(locker, key);
      expect(await holder.message(isAbort)).toMatchObject({ aborted: "LOCK_LOST" });
      await holder.message(isEnd);
      await lock.release();
    });

    test("hides that its session was ended: it relies on the lock for at most a TTL", async () => {
      await using locker = enforced();
      const key = uniqueKey();
      const ttl = 1_000;
      await using proxy = await TcpProxy.start(databaseUrl());
      await using holder = await hold(key, { ttl, autoRefresh: true }, proxy.url);
      proxy.freeze();
      const frozenAt = instant();
      await onServer("select pg_terminate_backend($1)", await holdersOf(lockId(0, key)));
      const { lock } = await takeOver(locker, key);
      await holder.message(isAbort);
      await holder.message(isEnd);
      // It relies on a statement that it sent before the freeze. By the clocks that holds, whatever the machine's load.
      expect(lastHeldAt(holder) - frozenAt).toBeLessThan(BigInt(ttl) * 1_000_000n);
      await lock.release();
    });
  });
});
