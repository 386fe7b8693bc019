import type pg from "pg";
import { afterEach, describe, expect, inject, test, vi } from "vitest";
import {
  type AcquireOptions,
  DatabaseError,
  InvalidTtlError,
  type Lock,
  LockExpiredError,
  LockLostError,
  LockNotHeldError,
  lockId,
  PostgresLocker,
  type PostgresLockerOptions,
} from "../../src/index.ts";
import { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { Child, type ChildMessage } from "../support/child.ts";
import {
  advisoryLocks,
  connect,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
  urlWith,
} from "../support/database.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// A TTL that the server enforces, when a holder's process, its clock or its network fails: the holder stops believing before
// the next one is granted. Holders are processes; every instant is that of the machine's one monotonic clock, in nanoseconds.

afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

describe("a holder whose process fails", () => {
  test.each([false, true])("is killed (autoRefresh: %s): a waiter has the lock", async (autoRefresh) => {
    await using locker = enforced();
    const key = uniqueKey();
    await using holder = await hold(key, { ttl: 700, autoRefresh });
    const waited = locker.acquire(key, { wait: "20s", ttl: "1m" }).then((lock) => ({ lock, at: instant() }));
    await until(async () => (await advisoryLocks()).some(({ granted }) => !granted));
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
    "is stopped, and goes on when the next has the lock (autoRefresh: %s): it holds nothing, and is told so",
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

  test("is stopped in the middle of a synchronous loop: the first question after it is answered with no", async () => {
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
    "blocks its event loop (autoRefresh: %s): asked right after, before any timer, it doesn't hold",
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

  test("never yields, and asks all the time: it stops believing by the clock alone", async () => {
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

describe("a holder whose network fails", () => {
  // It refreshes at a third of its TTL at the latest, and gives up on the answer when a tenth of the rest is left.
  test.each([
    ["swallows what is sent to the server", "toServer"],
    ["swallows what is sent to the client", "toClient"],
    ["swallows everything", undefined],
  ] as const)(
    "%s: it stops believing before the next has the lock, and its signal aborts",
    async (_what, direction) => {
      await using locker = enforced();
      const key = uniqueKey();
      await using proxy = await TcpProxy.start(databaseUrl());
      await using holder = await hold(key, { ttl: 3_000, autoRefresh: true }, proxy.url);
      proxy.freeze(direction === undefined ? {} : { direction });
      const { lock, at } = await takeOver(locker, key);
      // The signal is a timer's, and as late as that is on a busy machine; what it stands for is not: see the order.
      const { aborted } = await holder.message(isAbort);
      // Locks on a shared session are proved together, and each expires for itself.
      expect(aborted).toBe(process.env["SESSIONS"] === "dedicated" ? "LOCK_LOST" : "LOCK_EXPIRED");
      await holder.message(isEnd);
      expectOrder(holder, at);
      await lock.release();
    },
  );

  test("swallows everything, where nobody refreshes: it stops believing before the next has the lock", async () => {
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

  test("delays every packet: belief counts from the sending, not from the answer", async () => {
    await using locker = enforced();
    const key = uniqueKey();
    await using proxy = await TcpProxy.start(databaseUrl());
    await using holder = await ready(key, { ttl: 1_500 }, proxy.url);
    // The server frees the lock 1,800 ms after the sending; whoever counts from the answer believes until 2,100 ms.
    proxy.delay(300);
    holder.send({ acquire: true });
    await holder.message((message) => "believed" in message);
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

  // The proof that locks are kept comes after the grant, and takes five round trips or more, two of them for connections: until
  // then the TTL of the very first lock has passed, and its caller gets a handle that never held.
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

  test("closes the half that leads to it: it stops believing, ends the session, and the next has the lock", async () => {
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

  // Here the server frees the lock before its TTL, because of somebody else. No order is promised, but that both get to know.
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

  test("hides that an administrator ended the session: it believes for no longer than a TTL", async () => {
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
    // What it believes rests on a statement that it sent before the freeze: true of the clocks, whatever the machine's load.
    expect(lastBelief(holder) - frozenAt).toBeLessThan(BigInt(ttl) * 1_000_000n);
    await lock.release();
  });
});

describe("a holder whose wall clock is set", () => {
  test("forward stops believing at once, and the next has the lock long before the TTL", async () => {
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

  test("forward is not asked by a timer: held is false in the same step", async () => {
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

  test("forward under a refresh is not brought back by its answer: what is over stays over", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = enforced(createPool({ connectionString: proxy.url }));
    const lock = await locker.acquire(uniqueKey(), { ttl: "1h" });
    const { signal } = lock;
    proxy.freeze({ direction: "toClient" });
    const refreshed = lock.refresh("3h").catch((error: unknown) => error);
    await new Promise(setImmediate); // It is on its way.
    const wall = Date.now();
    vi.spyOn(Date, "now").mockImplementation(() => wall + 2 * 3_600_000);
    expect([lock.held, lock.expired]).toEqual([false, true]);
    proxy.thaw();
    expect(await refreshed).toMatchObject({ code: "LOCK_NOT_HELD", reason: "expired" });
    expect([lock.held, lock.expired, signal.aborted]).toEqual([false, true, true]);
  });

  test("back believes no longer than before", async () => {
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

describe("a refresh", () => {
  test("to a longer TTL is that long in the server too", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using far = enforced(createPool({ connectionString: proxy.url }));
    await using near = enforced();
    const lock = await far.acquire(uniqueKey(), { ttl: 1_000 });
    await lock.refresh("1m");
    proxy.freeze();
    // One of the old TTL, that began later, and that only the server ends.
    const url = new URL(databaseUrl());
    url.searchParams.set("options", "-c idle_session_timeout=1000");
    const another = await connect({ connectionString: url.href });
    await new Promise((resolve) => another.once("end", resolve));
    expect(await holdersOf(lock.id)).toHaveLength(1);
    expect(await near.tryAcquire(lock.key)).toBeUndefined();
    proxy.thaw();
    await lock.release();
  });

  test("to a shorter TTL is that short in the server too", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using far = enforced(createPool({ connectionString: proxy.url }));
    await using near = enforced();
    const lock = await far.acquire(uniqueKey(), { ttl: "1h" });
    await lock.refresh(300);
    proxy.freeze();
    const next = await takeOver(near, lock.key);
    expect([lock.held, lock.expired]).toEqual([false, true]);
    proxy.cut();
    await next.lock.release();
  });

  test("by itself keeps the lock for many TTLs", async () => {
    await using locker = enforced();
    await using other = enforced();
    await using lock = await locker.acquire(uniqueKey(), { ttl: 1_000, autoRefresh: true });
    for (let round = 0; round < 12; round++) {
      const another = await locker.acquire(uniqueKey(), { ttl: 300 });
      await until(() => !another.held);
      expect(await other.tryAcquire(lock.key)).toBeUndefined();
    }
    expect([lock.held, lock.signal.aborted]).toEqual([true, false]);
    expect(await holdersOf(lock.id)).toHaveLength(1);
  });
});

describe("a holder that doesn't refresh", () => {
  test("is told of the expiry, and its lock is freed without its doing", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = enforced(createPool({ connectionString: proxy.url }));
    const lock = await locker.acquire(uniqueKey(), { ttl: 200 });
    const { signal } = lock;
    proxy.delay(500); // The server's news comes after the locker's own timer.
    await until(() => signal.aborted);
    expect(signal.reason).toBeInstanceOf(LockExpiredError);
    expect(signal.reason).toMatchObject({ key: lock.key, ttl: 200 });
    expect([lock.held, lock.expired]).toEqual([false, true]);
    await until(async () => (await holdersOf(lock.id)).length === 0);
    for (const failure of [lock.refresh(), lock.release()]) {
      await expect(failure).rejects.toMatchObject({ code: "LOCK_NOT_HELD", reason: "expired" });
    }
  });

  // The timer is late: a busy machine, or a process that was stopped. `expired` is true, and then false for ever.
  test("is told of the expiry, too, where the server's news of it comes before the timer", async () => {
    vi.useFakeTimers({ toFake: ["setTimeout"] });
    await using locker = enforced();
    const lock = await locker.acquire(uniqueKey(), { ttl: 200 });
    const { signal } = lock;
    await until(() => signal.aborted);
    expect(lock.expired).toBe(true);
    expect(signal.reason).toBeInstanceOf(LockExpiredError);
  });

  test("leaves a pool of one that serves again, with its own settings", async () => {
    const pool = createPool({
      max: 2,
      options: ownSettings.map(([name, value]) => `-c ${name}=${value}`).join(" "),
    });
    await using locker = enforced(pool);
    // Whether the session was returned, or the server was faster than the locker and ended it: the pid isn't compared.
    const { pid: _, ...before } = await settings(pool);
    for (let round = 0; round < 5; round++) {
      const { signal } = await locker.acquire(uniqueKey(), { ttl: 150 });
      await until(() => signal.aborted);
      expect(await settings(pool)).toMatchObject(before);
    }
    await (await locker.acquire(uniqueKey())).release();
    expect(await settings(pool)).toMatchObject(before);
  });
});

describe("the session of a holder", () => {
  test("has the settings of its TTL while it holds, and its own ones again afterwards", async () => {
    const { pool, clients } = capturing({ max: 2 });
    await pool.query(ownSettings.map(([name, value]) => `set ${name} = '${value}'`).join("; "));
    const before = await settings(pool);
    await using locker = enforced(pool);
    const lock = await locker.acquire(uniqueKey(), { ttl: "1m" });
    const holding = clients.at(-1);
    if (holding === undefined) throw new Error("no client was reserved");
    expect(await settings(holding)).toMatchObject({
      idle_session_timeout: "60000",
      tcp_keepalives_idle: "15",
      tcp_keepalives_interval: "15",
      tcp_keepalives_count: "3",
      tcp_user_timeout: "60000",
    });
    await lock.release();
    await until(() => pool.idleCount === pool.totalCount);
    // The same session, as its pid says.
    expect(await settings(pool)).toEqual(before);
  });

  test("of a refused caller has its own settings again, too", async () => {
    await using other = enforced();
    const pool = createPool({ max: 2 });
    await pool.query(ownSettings.map(([name, value]) => `set ${name} = '${value}'`).join("; "));
    const before = await settings(pool);
    await using locker = enforced(pool, { sessions: "dedicated" });
    await using lock = await other.acquire(uniqueKey());
    expect(await locker.tryAcquire(lock.key, { ttl: 200 })).toBeUndefined();
    expect(await settings(pool)).toEqual(before);
  });

  test("of a role with settings of its own carries locks with tokens, and gets them back", async () => {
    await using role = await createRole({
      idle_session_timeout: "300ms",
      synchronous_commit: "off",
      default_transaction_isolation: "serializable",
      default_transaction_read_only: "on",
    });
    const pool = createPool({ connectionString: role.url, max: 2 });
    await using locker = enforced(pool);
    const before = await settings(pool);
    expect(before).toMatchObject({
      idle_session_timeout: "300",
      synchronous_commit: "off",
      default_transaction_isolation: "serializable",
      default_transaction_read_only: "on",
    });
    const lock = await locker.acquire(uniqueKey(), { ttl: "1m", fencing: true });
    expect(lock.fencingToken).toBeTypeOf("bigint");
    const another = createPool({ connectionString: role.url, max: 2 });
    await another.query("select 1");
    await until(() => another.totalCount === 0);
    await lock.refresh();
    await lock.release();
    // The session itself, or one that its own time-out has ended meanwhile and another that is the role's as well.
    const { pid: _, ...after } = await settings(pool);
    expect(before).toMatchObject(after);
    await until(() => pool.totalCount === 0);
  });
});

describe("a TTL that the server can't enforce", () => {
  const wrong = [
    0.4,
    0.999,
    2147483648,
    "25d",
    1e12,
    Number.POSITIVE_INFINITY,
    0,
    -1,
    "999us",
    "596h31m23.648s",
  ];

  test.each(wrong)(
    "%s is refused by acquire, in words that name the range, and nothing is held",
    async (ttl) => {
      const pool = createPool();
      await using locker = enforced(pool);
      for (const refused of [locker.acquire(uniqueKey(), { ttl }), locker.tryAcquire(uniqueKey(), { ttl })]) {
        await expect(refused).rejects.toBeInstanceOf(InvalidTtlError);
        await expect(refused).rejects.toThrow(/from 1 ms to 2147483647 ms, which the server can enforce/);
      }
      expect([await advisoryLocks(), pool.totalCount]).toEqual([[], 0]);
    },
  );

  test("is refused by refresh, and the lock stays as it was", async () => {
    await using locker = enforced();
    const lock = await locker.acquire(uniqueKey(), { ttl: "1m" });
    for (const ttl of wrong) {
      const refused = lock.refresh(ttl);
      await expect(refused).rejects.toBeInstanceOf(InvalidTtlError);
      await expect(refused).rejects.toThrow(/from 1 ms to 2147483647 ms/);
    }
    expect([lock.ttl, lock.held, lock.signal.aborted]).toEqual([60_000, true, false]);
    expect(await holdersOf(lock.id)).toHaveLength(1);
    await lock.release();
  });

  test("is not the longest one, nor a fraction within", async () => {
    const { pool, clients } = capturing({ max: 2 });
    await using locker = enforced(pool);
    for (const ttl of [2147483647, "2147483647ms", 2147483646.5]) {
      const lock = await locker.acquire(uniqueKey(), { ttl });
      const holding = clients.at(-1);
      if (holding === undefined) throw new Error("no client was reserved");
      expect(await settings(holding)).toMatchObject({ idle_session_timeout: "2147483647" });
      await lock.refresh(ttl);
      expect(lock.held).toBe(true);
      await lock.release();
    }
  });

  test("is not the shortest one, which is over before much can be done", async () => {
    await using locker = enforced();
    // The answer has a millisecond to come: without one, nothing is known of the grant and the session is destroyed.
    const outcome = await locker.acquire(uniqueKey(), { ttl: 1 }).catch((error: unknown) => error);
    if (outcome instanceof Error) expect(outcome).toBeInstanceOf(DatabaseError);
    await until(async () => (await advisoryLocks()).length === 0);
    const lock = await locker.acquire(uniqueKey(), { ttl: "1m" });
    const refreshed = await lock.refresh(1).catch((error: unknown) => error);
    if (refreshed !== undefined) expect(refreshed).toBeInstanceOf(LockNotHeldError);
    await until(async () => (await advisoryLocks()).length === 0);
    expect(lock.held).toBe(false);
  });
});

describe.each(["server", "client"] as const)("with ttlEnforcement: %j", (ttlEnforcement) => {
  test.each([
    ["an open", "begin", undefined, /the pool's client was in a transaction/],
    ["a failed", "begin; select 1 / 0", "25P02", /current transaction is aborted/],
  ] as const)(
    "a client that the pool hands out in %s transaction is destroyed, and nothing is held",
    async (_in, sql, sqlState, says) => {
      const { pool, clients } = capturing({ max: 2 });
      await using locker = new PostgresLocker({ pool, ttlEnforcement });
      for (const options of [{}, { fencing: true }, { mode: "shared" }] as const) {
        const careless = await pool.connect();
        await careless.query(sql).catch(() => {});
        careless.release();
        const key = uniqueKey();
        const refused = await locker.acquire(key, options).catch((error: unknown) => error);
        expect(refused).toBeInstanceOf(DatabaseError);
        expect(refused).toMatchObject({ sqlState, message: expect.stringMatching(says) });
        expect(pool.totalCount).toBe(0);
        await until(async () => (await advisoryLocks()).length === 0);
        const lock = await locker.acquire(key, options);
        expect(clients.at(-1)).not.toBe(careless);
        expect(await holdersOf(lock.id)).toHaveLength(1);
        await lock.release();
        await until(() => pool.idleCount === pool.totalCount);
      }
    },
  );
});

describe("on a server that fails", () => {
  test.each([
    ["is restarted", (server: PostgresServer) => server.restart()],
    ["is restarted as after a crash", (server: PostgresServer) => server.restart({ mode: "immediate" })],
    ["loses another backend to kill -9, and so ends them all", killAnotherBackend],
  ] as const)("%s, every holder's signal aborts, and new locks are as good as ever", async (_what, fail) => {
    await using server = await PostgresServer.start({ major: inject("postgresMajor") });
    const pool = createPool({ connectionString: server.url });
    await using locker = enforced(pool);
    const key = uniqueKey();
    await using holder = await hold(key, { ttl: "1h", autoRefresh: true }, server.url);
    const options = { ttl: "1h", autoRefresh: true };
    const locks = await Promise.all([1, 2, 3].map(() => locker.acquire(uniqueKey(), options)));
    const signals = locks.map((lock) => lock.signal);
    await fail(server);
    await until(() => signals.every(({ reason }) => reason instanceof LockLostError), { deadline: 15_000 });
    expect(await holder.message(isAbort)).toMatchObject({ aborted: "LOCK_LOST" });
    expect(locks.map((lock) => lock.held)).toEqual([false, false, false]);
    const again = await until(() => locker.acquire(key).catch(unlessDown), { deadline: 15_000 });
    await again.refresh();
    expect(again.held).toBe(true);
    await again.release();
  });
});

/** What the library says of a lock that expired in mid-step: known before a timer ran, and without the server's news. */
const expiredUnseen = {
  held: false,
  expired: true,
  asserted: "LOCK_NOT_HELD",
  timersRun: 0,
  refreshed: "LOCK_NOT_HELD",
  released: "LOCK_NOT_HELD",
  aborted: true,
};

const ownSettings = [
  ["idle_session_timeout", "600000"],
  ["tcp_keepalives_idle", "77"],
  ["tcp_keepalives_interval", "11"],
  ["tcp_keepalives_count", "5"],
  ["tcp_user_timeout", "123456"],
] as const;

const isEnd = (message: object) => "ended" in message;
const isAbort = (message: object) => "aborted" in message && !("ended" in message);

function instant(): bigint {
  return process.hrtime.bigint();
}

function enforced(
  pool = createPool(),
  options: Pick<PostgresLockerOptions, "sessions"> = {},
): PostgresLocker {
  return new PostgresLocker({ pool, ttlEnforcement: "server", ...options });
}

/** A process that is about to hold. */
async function ready(key: string, options: AcquireOptions, url = databaseUrl()): Promise<Child> {
  const args = [key, JSON.stringify(options)];
  const child = Child.start("hold-enforced.mjs", { args, env: { DATABASE_URL: url } });
  await child.message((message) => "ready" in message);
  return child;
}

/** A process that holds, and has said so. */
async function hold(key: string, options: AcquireOptions, url?: string): Promise<Child> {
  const child = await ready(key, options, url);
  child.send({ acquire: true });
  await child.message((message) => "believed" in message);
  return child;
}

/** Tries as often as it can, so that the instant is no later than a round trip or two after the lock was free. */
async function takeOver(locker: PostgresLocker, key: string): Promise<{ lock: Lock; at: bigint }> {
  const lock = await until(() => locker.tryAcquire(key, { ttl: "1m" }), { interval: 1, deadline: 15_000 });
  return { lock, at: instant() };
}

/**
 * Waits for the holder's end behind a proxy that is frozen. Only once it has stopped believing, all by itself, is the link cut,
 * so that what it then asks for need not wait for an answer. Answers how it knew.
 */
async function endUnheard(holder: Child, proxy: TcpProxy): Promise<ChildMessage> {
  const how = await holder.message(isAbort);
  proxy.cut();
  await holder.message(isEnd);
  return how;
}

function lastBelief(holder: Child): bigint {
  const instants = holder.messages.flatMap(({ believed }) =>
    believed === undefined ? [] : [BigInt(String(believed))],
  );
  return instants.reduce((last, next) => (next > last ? next : last), 0n);
}

/** The holder believed, and for the last time before the next one had the lock. To be called when it has ended. */
function expectOrder(holder: Child, grantedAt: bigint): void {
  expect(lastBelief(holder)).toBeGreaterThan(0n);
  expect(lastBelief(holder)).toBeLessThan(grantedAt);
}

/** In their own units, as `current_setting` doesn't have them. */
async function settings(on: pg.Pool | pg.PoolClient): Promise<Record<string, unknown>> {
  const names = [
    ...ownSettings.map(([name]) => name),
    ...["statement_timeout", "application_name", "synchronous_commit"],
    ...["default_transaction_isolation", "default_transaction_read_only"],
  ];
  const sql = `select json_object_agg(name, case when name like 'tcp%' then current_setting(name) else setting end) as all,
                      pg_backend_pid() as pid from pg_settings where name = any ($1)`;
  const { rows } = await on.query<{ all: Record<string, string>; pid: number }>(sql, [names]);
  return { ...rows[0]?.all, pid: rows[0]?.pid };
}

function capturing(config: pg.PoolConfig): { pool: pg.Pool; clients: pg.PoolClient[] } {
  const pool = createPool(config);
  const clients: pg.PoolClient[] = [];
  pool.on("acquire", (client) => clients.push(client));
  return { pool, clients };
}

/** The postmaster ends every session, for what they share may be damaged, and recovers. */
async function killAnotherBackend(server: PostgresServer): Promise<void> {
  const another = await connect({ connectionString: server.url });
  process.kill(another.processID, "SIGKILL");
}

function unlessDown(error: unknown): undefined {
  if (!(error instanceof DatabaseError)) throw error;
}

async function createRole(
  settings: Readonly<Record<string, string>>,
): Promise<AsyncDisposable & { readonly url: string }> {
  const user = uniqueKey("role").replace(":", "_");
  await onServer(`create role ${user} login password 'secret'`);
  for (const [name, value] of Object.entries(settings))
    await onServer(`alter role ${user} set ${name} = '${value}'`);
  return {
    url: urlWith({ user, password: "secret" }),
    [Symbol.asyncDispose]: async () => {
      await onServer(`drop role ${user}`);
    },
  };
}
