import { Socket } from "node:net";
import { afterEach, describe, expect, test, vi } from "vitest";
import { DatabaseError, type Lock, LockLostError, LockNotHeldError, lockId } from "../../src/index.ts";
import { Child } from "../support/child.ts";
import {
  advisoryLocks,
  createPool,
  createRole,
  databaseUrl,
  holdersOf,
  onServer,
  terminateHolder,
  uniqueKey,
} from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { createLocker } from "../support/locker.ts";
import { observedPool } from "../support/observed-pool.ts";
import { sessionModes } from "../support/session-modes.ts";
import { startServer } from "../support/start-server.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// However a holder's session ends, the holder hears of it, and nobody else does.

afterEach(() => {
  vi.restoreAllMocks();
});

describe.each(sessionModes)("with %s sessions", (sessions) => {
  describe("a holder whose backend is terminated", () => {
    test("learns it from a release that is under way", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      const pool = createPool({ connectionString: proxy.url });
      await using locker = createLocker({ sessions, pool });
      const lock = await locker.acquire(uniqueKey());
      proxy.freeze({ direction: "toServer" });
      const released = lock.release().catch((error: unknown) => error);
      await terminateHolder(lock.id);
      expect(await released).toMatchObject({ reason: "lost", cause: { sqlState: "57P01" } });
      await until(() => pool.totalCount === 0);
    });
  });

  test("a server that crashes ends every lock, and new ones work after the restart", async () => {
    await using server = await startServer();
    const pool = createPool({ connectionString: server.url });
    await using locker = createLocker({ sessions, pool });
    const locks = await Promise.all([1, 2, 3, 4].map(() => locker.acquire(uniqueKey())));
    await (await locker.acquire(uniqueKey())).release();
    const signals = locks.map((lock) => lock.signal);
    await server.restart({ mode: "immediate" });
    await until(() => signals.every((signal) => signal.reason instanceof LockLostError));
    expect(locks.map((lock) => lock.held)).toEqual([false, false, false, false]);
    await until(() => pool.totalCount === 0);
    await using again = await locker.acquire(locks[0]?.key ?? "");
    await again.refresh();
    expect(again.held).toBe(true);
  });

  test("a link that is cut ends the locks on it at once", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ sessions, pool });
    const locks = [await locker.acquire(uniqueKey()), await locker.acquire(uniqueKey())];
    const signals = locks.map((lock) => lock.signal);
    proxy.cut();
    await until(() => signals.every((signal) => signal.reason instanceof LockLostError));
    for (const lock of locks) await expect(lock.refresh()).rejects.toMatchObject({ reason: "lost" });
    await until(async () => (await advisoryLocks()).length === 0);
    expect(pool.totalCount).toBe(0);
  });

  test("a link that the other side closes ends the lock on it", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = createLocker({ sessions, pool: createPool({ connectionString: proxy.url }) });
    const lock = await locker.acquire(uniqueKey());
    const { signal } = lock;
    proxy.halfClose("toClient");
    await until(() => signal.aborted);
    expect(signal.reason).toBeInstanceOf(LockLostError);
    await until(async () => (await holdersOf(lock.id)).length === 0);
  });

  describe("a try whose answer comes when the TTL has passed", () => {
    test("grants nothing", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      await using locker = createLocker({ sessions, pool: createPool({ connectionString: proxy.url }) });
      await (await locker.acquire(uniqueKey())).release();
      proxy.delay(200);
      for (const mode of ["exclusive", "shared"] as const) {
        const key = uniqueKey();
        const late = locker.acquire(key, { ttl: 300, mode });
        await expect(late).rejects.toBeInstanceOf(DatabaseError);
        await expect(late).rejects.toThrow("no answer within 300 ms");
        await until(async () => (await holdersOf(lockId(0, key))).length === 0);
      }
    });

    test("grants nothing to one more shared holder, and leaves the first one with the lock", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      await using locker = createLocker({ sessions, pool: createPool({ connectionString: proxy.url }) });
      const key = uniqueKey();
      const lock = await locker.acquire(key, { mode: "shared" });
      proxy.delay(200);
      const late = locker.acquire(key, { mode: "shared", ttl: 300 });
      await expect(late).rejects.toThrow("no answer within 300 ms");
      await lock.refresh();
      expect(lock.held).toBe(true);
      await until(async () => (await holdersOf(lock.id)).length === 1);
      await lock.release();
    });
  });

  describe("a process whose pool has no error listener of its own", () => {
    test("survives the end of a holder's session, and takes the lock anew", async () => {
      await using child = Child.start("hold.mjs", {
        args: [uniqueKey()],
        env: { DATABASE_URL: databaseUrl(), SESSIONS: sessions },
      });
      const { pid } = await child.message((message) => "pid" in message);
      await onServer("select pg_terminate_backend($1)", [pid]);
      expect(await child.message((message) => "lost" in message)).toEqual({ lost: "LOCK_LOST" });
      child.send({});
      expect(await child.message((message) => "again" in message)).toEqual({ again: true });
    });

    test("survives the end of a returned session that lies idle in the pool", async () => {
      await using child = Child.start("hold.mjs", {
        args: [uniqueKey(), "release"],
        env: { DATABASE_URL: databaseUrl(), SESSIONS: sessions },
      });
      const { pid } = await child.message((message) => "pid" in message);
      await onServer("select pg_terminate_backend($1)", [pid]);
      await child.message((message) => "removed" in message);
      child.send({});
      expect(await child.message((message) => "again" in message)).toEqual({ again: true });
    });
  });

  describe("a lock that is freed behind its holder's back", () => {
    test.skipIf(isOverPostgresJs)("by DISCARD ALL is lost, as the next refresh says", async () => {
      const { pool, handedOut } = observedPool();
      await using locker = createLocker({ sessions, pool });
      const lock = await locker.acquire(uniqueKey());
      const { signal } = lock;
      await handedOut[0]?.query("discard all");
      await expect(lock.refresh()).rejects.toMatchObject({
        reason: "lost",
        cause: expect.any(DatabaseError),
      });
      expect([lock.held, signal.reason instanceof LockLostError]).toEqual([false, true]);
      expect(pool.totalCount).toBe(0);
    });

    test.skipIf(isOverPostgresJs)(
      "by pg_advisory_unlock_all is lost on release, and its session is destroyed",
      async () => {
        const { pool, handedOut } = observedPool();
        await using locker = createLocker({ sessions, pool });
        const lock = await locker.acquire(uniqueKey());
        await handedOut[0]?.query("select pg_advisory_unlock_all()");
        await expect(lock.release()).rejects.toMatchObject({
          reason: "lost",
          cause: expect.any(DatabaseError),
        });
        expect(pool.totalCount).toBe(0);
      },
    );
  });

  describe("a role's own settings", () => {
    test("statement_timeout ends no statement of a holder, and is back on return", async () => {
      await using role = await createRole({ settings: { statement_timeout: "100ms" } });
      const { pool, handedOut } = observedPool({ connectionString: role.url });
      await using locker = createLocker({ sessions, pool });
      const lock = await locker.acquire(uniqueKey());
      await handedOut[0]?.query("select pg_sleep(0.3)");
      await lock.release();
      await expect(pool.query("select pg_sleep(0.3)")).rejects.toMatchObject({ code: "57014" });
    });
  });
});

describe("a holder whose backend is terminated", () => {
  test("is told by its signal, and no longer holds the lock", async () => {
    await using locker = createLocker({ sessions: "dedicated" });
    const [lock, other] = [await locker.acquire(uniqueKey()), await locker.acquire(uniqueKey())];
    const { signal } = lock;
    await terminateHolder(lock.id);
    await until(() => signal.aborted);
    expect(signal.reason).toBeInstanceOf(LockLostError);
    expect(signal.reason).toMatchObject({ key: lock.key, cause: { code: "57P01" } });
    expect([lock.held, lock.expired]).toEqual([false, false]);
    expect(() => lock.assertHeld()).toThrow(LockNotHeldError);
    for (const failure of [lock.refresh(), lock.release(), lock.release()]) {
      await expect(failure).rejects.toBeInstanceOf(LockNotHeldError);
      await expect(failure).rejects.toMatchObject({ reason: "lost", cause: { code: "57P01" } });
    }
    await lock[Symbol.asyncDispose]();
    await other.refresh();
    expect([other.held, other.signal.aborted]).toEqual([true, false]);
    expect(await holdersOf(other.id)).toHaveLength(1);
  });

  test.skipIf(isOverPostgresJs)("leaves the key to the next one, and its place in the pool", async () => {
    const pool = createPool({ max: 1 });
    await using locker = createLocker({ sessions: "dedicated", pool });
    const lock = await locker.acquire(uniqueKey());
    await terminateHolder(lock.id);
    await until(() => !lock.held);
    const next = await locker.acquire(lock.key);
    expect(next.held).toBe(true);
    await expect(lock.release()).rejects.toMatchObject({ reason: "lost" });
    expect(await holdersOf(next.id)).toHaveLength(1);
    await next.release();
    expect([pool.totalCount, pool.idleCount]).toEqual([1, 1]);
  });

  test("learns it from a refresh that is under way", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ sessions: "dedicated", pool });
    const lock = await locker.acquire(uniqueKey());
    const { signal } = lock;
    proxy.freeze({ direction: "toServer" });
    const refreshed = lock.refresh().catch((error: unknown) => error);
    await terminateHolder(lock.id);
    expect(await refreshed).toBeInstanceOf(LockNotHeldError);
    expect(await refreshed).toMatchObject({ reason: "lost", cause: { sqlState: "57P01" } });
    expect(signal.reason).toBeInstanceOf(LockLostError);
    expect(lock.held).toBe(false);
    await until(() => pool.totalCount === 0);
  });
});

describe("a role's own settings", () => {
  test.skipIf(isOverPostgresJs)(
    "idle_session_timeout doesn't end a holder, and is back on return",
    async () => {
      await using role = await createRole({ settings: { idle_session_timeout: "300ms" } });
      const pool = createPool({ connectionString: role.url });
      await using locker = createLocker({ sessions: "dedicated", pool });
      // Two sessions of the same age: the one that was returned ends by its time-out, the holder stays.
      const [lock, returned] = await Promise.all([locker.acquire(uniqueKey()), locker.acquire(uniqueKey())]);
      expect(pool.totalCount).toBe(2);
      await returned.release();
      await until(() => pool.totalCount === 1);
      await lock.refresh();
      await lock.release();
      await until(() => pool.totalCount === 0);
    },
  );
});

test("when this side closes after the other, no lock is held any more", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  const pool = createPool({ connectionString: proxy.url });
  const held: boolean[] = [];
  let lock: Lock | undefined;
  const { emit } = Socket.prototype;
  vi.spyOn(Socket.prototype, "emit").mockImplementation(function (
    this: Socket,
    event: string | symbol,
    ...about: unknown[]
  ) {
    // Before anything can be sent that would make the server free the lock.
    if (event === "end" && String(this.remotePort) === new URL(proxy.url).port)
      process.nextTick(() => held.push(lock?.held ?? false));
    return Reflect.apply(emit, this, [event, ...about]);
  });
  await using locker = createLocker({ pool });
  lock = await locker.acquire(uniqueKey());
  proxy.halfClose("toClient");
  await until(() => held.length > 0);
  expect(held).not.toContain(true);
});
