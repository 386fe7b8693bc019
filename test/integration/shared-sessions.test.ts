import { getEventListeners } from "node:events";
import type pg from "pg";
import { describe, expect, inject, test } from "vitest";
import {
  type AcquireOptions,
  DatabaseError,
  type Lock,
  LockExpiredError,
  LockLostError,
  LockNotAcquiredError,
  LockNotHeldError,
  LockTableFullError,
  lockId,
  PoolerDetectedError,
  PostgresLocker,
  type PostgresLockerOptions,
} from "../../src/index.ts";
import { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
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

// With `sessions: "shared"`, many locks are carried by one session: each is as good as if it had one to itself, and what happens to
// one of them happens to no other, but for the end of their session.

const reason = new Error("the caller's own reason");

describe("the sessions of a locker", () => {
  test("are one for a hundred locks", async () => {
    const pool = createPool();
    await using locker = sharing(pool);
    const locks = await acquireMany(locker, 100);
    const held = await advisoryLocks();
    expect(sorted(held)).toEqual(sorted(locks));
    expect(new Set(held.map(({ pid }) => pid)).size).toBe(1);
    expect([pool.totalCount, pool.idleCount]).toEqual([1, 0]);
    await Promise.all(locks.map((lock) => lock.release()));
    expect(await advisoryLocks()).toEqual([]);
    await until(() => pool.idleCount === 1);
  });

  test("are as many as maxLocksPerSession makes of them, each filled before another is opened", async () => {
    const pool = createPool();
    await using locker = sharing(pool, { maxLocksPerSession: 10 });
    const locks = await acquireMany(locker, 25);
    expect(await loads()).toEqual([10, 10, 5]);
    expect(pool.totalCount).toBe(3);
    const [first] = await holdersOf(locks[0]?.id ?? 0n);
    await locks[0]?.release();
    const next = await locker.acquire(uniqueKey());
    expect(await holdersOf(next.id)).toEqual([first]);
    expect(await loads()).toEqual([10, 10, 5]);
  });

  test("go back to the pool once they carry nothing, while others of the locker go on", async () => {
    const pool = createPool();
    await using locker = sharing(pool, { maxLocksPerSession: 2 });
    const [one, two, three] = await acquireMany(locker, 3);
    await one?.release();
    await two?.release();
    await until(() => pool.idleCount === 1);
    expect([pool.totalCount, three?.held]).toEqual([2, true]);
    await pool.query("select 1");
    await three?.refresh();
  });

  test("are opened anew after that", async () => {
    const pool = createPool({ max: 2 });
    await using locker = sharing(pool);
    for (let round = 0; round < 3; round++) {
      const lock = await locker.acquire(uniqueKey());
      expect(await holdersOf(lock.id)).toHaveLength(1);
      await lock.release();
      await until(() => pool.idleCount === 1);
    }
  });

  test.each(["client", "server"] as const)(
    "have their own settings again in the pool, with ttlEnforcement: %j",
    async (ttlEnforcement) => {
      await using role = await createRole({
        idle_session_timeout: "600000",
        statement_timeout: "61000",
        default_transaction_isolation: "serializable",
        default_transaction_read_only: "on",
        synchronous_commit: "off",
        tcp_keepalives_idle: "77",
        tcp_keepalives_interval: "11",
        tcp_keepalives_count: "5",
        tcp_user_timeout: "123456",
      });
      const pool = createPool({ connectionString: role.url, max: 2, application_name: "somebody's" });
      await using locker = sharing(pool, { ttlEnforcement });
      const before = await settings(pool);
      expect(before).toMatchObject({ application_name: "somebody's", tcp_user_timeout: "123456" });
      const locks = await acquireMany(locker, 3, { ttl: "1m", fencing: true });
      await Promise.all(locks.map((lock) => lock.refresh("2m")));
      await Promise.all(locks.map((lock) => lock.release()));
      await until(() => pool.idleCount === 1);
      expect(await settings(pool)).toEqual(before);
    },
  );

  test("are not ended by what their role has set", async () => {
    await using role = await createRole({ idle_session_timeout: "300", statement_timeout: "100" });
    const { pool, clients } = counting({ connectionString: role.url });
    await using locker = sharing(pool);
    const locks = await acquireMany(locker, 20);
    const idle = createPool({ connectionString: role.url, max: 2 });
    await idle.query("select 1");
    await until(() => idle.totalCount === 0);
    await clients[0]?.query("select pg_sleep(0.3)");
    await Promise.all(locks.map((lock) => lock.refresh()));
    expect(locks.every((lock) => lock.held)).toBe(true);
    await locker.close();
    await until(() => pool.totalCount === 0);
  });

  test("leave the rest of the pool to what is done under the locks", async () => {
    const pool = createPool({ max: 3 });
    await using locker = sharing(pool);
    const work = Array.from({ length: 10 }, (_, i) =>
      locker.withLock(uniqueKey(), async (lock) => {
        const { rows } = await pool.query<{ i: number }>("select $1::int as i", [i]);
        lock.assertHeld();
        return rows[0]?.i;
      }),
    );
    expect(await Promise.all(work)).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    expect(await advisoryLocks()).toEqual([]);
  });
});

describe("a key that a session has", () => {
  test("is granted to one of many who ask at the same moment", async () => {
    await using locker = sharing();
    const key = uniqueKey();
    const asked = await Promise.allSettled(Array.from({ length: 50 }, () => locker.acquire(key)));
    const locks = asked.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
    expect(locks).toHaveLength(1);
    for (const each of asked)
      if (each.status === "rejected") expect(each.reason).toMatchObject({ reason: "held" });
    expect(await advisoryLocks()).toHaveLength(1);
    await locks[0]?.release();
    expect(await advisoryLocks()).toEqual([]);
  });

  test.each([
    ["exclusive", "exclusive"],
    ["exclusive", "shared"],
    ["shared", "exclusive"],
  ] as const)("held %s is refused to who wants it %s, and free after one release", async (mode, wanted) => {
    await using locker = sharing();
    await using other = sharing();
    const key = uniqueKey();
    await using _neighbour = await locker.acquire(uniqueKey());
    const lock = await locker.acquire(key, { mode });
    for (const each of [locker, other])
      await expect(each.acquire(key, { mode: wanted })).rejects.toMatchObject({ reason: "held" });
    expect(await holdersOf(lock.id)).toHaveLength(1);
    await lock.release();
    expect(await holdersOf(lock.id)).toEqual([]);
    await (await other.acquire(key, { mode: wanted })).release();
  });

  test("is had once by the server for all its shared holders, and free after the last of them", async () => {
    await using locker = sharing();
    await using other = sharing();
    const key = uniqueKey();
    const locks = await Promise.all([1, 2, 3, 4].map(() => locker.acquire(key, { mode: "shared" })));
    expect(await advisoryLocks()).toMatchObject([{ id: lockId(0, key), mode: "ShareLock" }]);
    for (const lock of locks) {
      await expect(other.acquire(key)).rejects.toMatchObject({ reason: "held" });
      await expect(locker.acquire(key)).rejects.toMatchObject({ reason: "held" });
      expect(await advisoryLocks()).toHaveLength(1);
      await lock.release();
    }
    expect(await advisoryLocks()).toEqual([]);
    await using lock = await other.acquire(key);
    expect(lock.held).toBe(true);
  });

  test("is kept for its other shared holders by one that is released while its refresh has no answer", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = counting({ connectionString: proxy.url });
    await using locker = sharing(pool);
    const key = uniqueKey();
    const leaving = await locker.acquire(key, { mode: "shared", ttl: 500 });
    const staying = await locker.acquire(key, { mode: "shared" });
    proxy.freeze({ direction: "toClient" });
    statements.length = 0;
    const refreshed = leaving.refresh().catch((error: unknown) => error);
    await until(() => statements.length === 1);
    await leaving.release();
    expect(await refreshed).toBeInstanceOf(LockNotHeldError);
    proxy.thaw();
    await staying.refresh();
    expect([staying.held, (await holdersOf(staying.id)).length]).toEqual([true, 1]);
    await staying.release();
  });

  test("and is given up twice, by a refresh without an answer and by its holder, harms no other on the session", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = counting({ connectionString: proxy.url });
    await using locker = sharing(pool);
    const other = await locker.acquire(uniqueKey());
    const lock = await locker.acquire(uniqueKey(), { ttl: 500 });
    proxy.freeze({ direction: "toClient" });
    statements.length = 0;
    const refreshed = lock.refresh().catch((error: unknown) => error);
    await until(() => statements.length === 1);
    const released = lock.release();
    expect(await refreshed).toBeInstanceOf(LockNotHeldError);
    proxy.thaw();
    await released;
    await other.refresh();
    expect([other.held, (await holdersOf(other.id)).length]).toEqual([true, 1]);
    await other.release();
  });

  test("is shared with another locker's session", async () => {
    await using locker = sharing();
    await using other = sharing();
    const key = uniqueKey();
    const locks = await Promise.all(
      [locker, locker, other, other].map((each) => each.acquire(key, { mode: "shared" })),
    );
    expect(await advisoryLocks()).toHaveLength(2);
    await Promise.all(locks.map((lock) => lock.release()));
    await (await other.acquire(key)).release();
  });

  test("goes to each of many in turn who wait for it in two lockers", async () => {
    const lockers = [sharing(), sharing()] as const;
    await using one = lockers[0];
    await using two = lockers[1];
    const key = uniqueKey();
    let inside = 0;
    let served = 0;
    const work = Array.from({ length: 60 }, (_, i) =>
      (i % 2 === 0 ? one : two).withLock(
        key,
        async () => {
          inside += 1;
          expect(inside).toBe(1);
          await new Promise(setImmediate);
          inside -= 1;
          served += 1;
        },
        { wait: "15s" },
      ),
    );
    await Promise.all(work);
    expect(served).toBe(60);
  });
});

describe("what is asked while a statement is under way", () => {
  test("goes out together, and all of it succeeds", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = counting({ connectionString: proxy.url });
    await using locker = sharing(pool);
    const [kept, ...locks] = await acquireMany(locker, 101);
    proxy.freeze();
    statements.length = 0;
    const refreshed = kept?.refresh();
    const released = locks.map((lock) => lock.release());
    const acquired = Array.from({ length: 100 }, () => locker.acquire(uniqueKey()));
    await until(() => statements.length === 1);
    proxy.thaw();
    await Promise.all([refreshed, ...released]);
    const next = await Promise.all(acquired);
    expect(statements.length).toBeLessThanOrEqual(3);
    expect(sorted(await advisoryLocks())).toEqual(sorted([kept as Lock, ...next]));
  });

  test("goes out in two halves where it is much: the server has the second before anybody has an answer of the first", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = counting({ connectionString: proxy.url });
    await using locker = sharing(pool);
    const locks = await acquireMany(locker, 201);
    proxy.freeze();
    statements.length = 0;
    const [alone, ...released] = locks.map((lock) => lock.release());
    await until(() => statements.length === 1);
    proxy.thaw();
    await Promise.race(released);
    expect(statements).toHaveLength(3);
    await Promise.all([alone, ...released]);
    expect(statements).toHaveLength(3);
  });

  test("goes out alone where it is alone, in a statement without the price of many", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = counting({ connectionString: proxy.url });
    await using locker = sharing(pool);
    const names = () =>
      statements
        .splice(0)
        .map((each) => /[a-z]+_[a-z]+(?=_[^_]+$)/.exec((each as { name: string }).name)?.[0]);
    const kept = await locker.acquire(uniqueKey());
    names();
    const lock = await locker.acquire(uniqueKey());
    await lock.refresh();
    await lock.release();
    expect(names()).toEqual(["shared_x", "shared_p", "shared_u"]);
    proxy.freeze();
    const refreshed = kept.refresh();
    await until(() => statements.length === 1);
    const acquired = [1, 2].map(() => locker.acquire(uniqueKey()));
    await new Promise(setImmediate);
    proxy.thaw();
    await Promise.all([refreshed, ...acquired]);
    expect(names()).toEqual(["shared_p", "shared_batch"]);
  });

  test("is done in the order in which it came: a key that is given back, and then asked for, is granted", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = counting({ connectionString: proxy.url });
    await using locker = sharing(pool);
    const [kept, ...locks] = await acquireMany(locker, 51);
    proxy.freeze();
    statements.length = 0;
    const refreshed = kept?.refresh();
    const released = locks.map((lock) => lock.release());
    await new Promise(setImmediate);
    const acquired = locks.map((lock) => locker.acquire(lock.key));
    await new Promise(setImmediate);
    proxy.thaw();
    await Promise.all([refreshed, ...released]);
    const next = await Promise.all(acquired);
    expect(statements.length).toBeLessThanOrEqual(4);
    expect(next.every((lock) => lock.held)).toBe(true);
    expect(sorted(await advisoryLocks())).toEqual(sorted([kept as Lock, ...next]));
  });

  test("is granted and refused each by itself", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = sharing(pool);
    await using other = sharing();
    await using kept = await locker.acquire(uniqueKey());
    const taken = await acquireMany(other, 20);
    proxy.freeze();
    const refreshed = kept.refresh();
    const keys = taken.flatMap((lock) => [lock.key, uniqueKey()]);
    const asked = keys.map((key, i) =>
      locker.tryAcquire(key, { mode: i % 3 === 0 ? "shared" : "exclusive" }),
    );
    await new Promise(setImmediate);
    proxy.thaw();
    await refreshed;
    const locks = await Promise.all(asked);
    expect(locks.map((lock) => lock?.held)).toEqual(keys.map((_, i) => (i % 2 === 0 ? undefined : true)));
    const granted = locks.flatMap((lock) => (lock === undefined ? [] : [lock]));
    expect(sorted(await advisoryLocks())).toEqual(sorted([kept, ...taken, ...granted]));
  });

  test("brings a fencing token to those alone that asked for one", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = sharing(pool);
    await using kept = await locker.acquire(uniqueKey());
    proxy.freeze();
    const refreshed = kept.refresh();
    const asked = [true, false, true, false].map((fencing) => locker.acquire(uniqueKey(), { fencing }));
    await new Promise(setImmediate);
    proxy.thaw();
    await refreshed;
    const tokens = (await Promise.all(asked)).map((lock) => typeof lock.fencingToken);
    expect(tokens).toEqual(["bigint", "undefined", "bigint", "undefined"]);
  });
});

test("more locks than fit into one statement are asked for in several", async () => {
  const { pool, statements } = counting();
  await using locker = sharing(pool, { maxLocksPerSession: 3_000 });
  await using first = await locker.acquire(uniqueKey());
  statements.length = 0;
  const locks = await acquireMany(locker, 2_500, { ttl: "5m" });
  expect(statements.length).toBeLessThanOrEqual(5);
  expect(sorted(await advisoryLocks())).toEqual(sorted([first, ...locks]));
  await Promise.all(locks.map((lock) => lock.release()));
  expect(await advisoryLocks()).toHaveLength(1);
});

test.each([
  ["a lock whose refresh has no answer in time is lost alone", false, LockLostError],
  ["a lock that refreshes itself, and has no answer in time, expires alone", true, LockExpiredError],
])("%s, and is freed as soon as the link is back", async (_, autoRefresh, reason) => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await using locker = sharing(createPool({ connectionString: proxy.url }));
  const short = await locker.acquire(uniqueKey(), { ttl: 400, autoRefresh });
  const long = await locker.acquire(uniqueKey(), { ttl: "1m" });
  const { signal } = short;
  proxy.freeze();
  if (!autoRefresh) await expect(short.refresh()).rejects.toBeInstanceOf(LockNotHeldError);
  await until(() => signal.aborted);
  expect(signal.reason).toBeInstanceOf(reason);
  expect([short.held, long.held]).toEqual([false, true]);
  proxy.thaw();
  await until(async () => (await holdersOf(short.id)).length === 0);
  await long.refresh();
  expect([long.held, long.signal.aborted]).toEqual([true, false]);
  await (await locker.acquire(short.key)).release();
});

describe("the end of a session", () => {
  test("aborts the signal of each of its locks once, and touches no other", async () => {
    await using locker = sharing(createPool(), { maxLocksPerSession: 20 });
    await using other = sharing();
    const locks = await acquireMany(locker, 20);
    const elsewhere = [await locker.acquire(uniqueKey()), await other.acquire(uniqueKey())];
    const heard = locks.map(({ signal }) => {
      const reasons: unknown[] = [];
      signal.addEventListener("abort", () => reasons.push(signal.reason));
      return reasons;
    });
    await terminateHolder(locks[0]);
    await until(() => heard.every((reasons) => reasons.length > 0));
    for (const [i, reasons] of heard.entries()) {
      expect(reasons).toHaveLength(1);
      expect(reasons[0]).toBeInstanceOf(LockLostError);
      expect(reasons[0]).toMatchObject({ key: locks[i]?.key, cause: { code: "57P01" } });
    }
    for (const lock of locks) {
      expect([lock.held, lock.expired]).toEqual([false, false]);
      for (const failure of [lock.refresh(), lock.release()])
        await expect(failure).rejects.toMatchObject({ code: "LOCK_NOT_HELD", reason: "lost" });
    }
    expect(heard.flat()).toHaveLength(20);
    await Promise.all(elsewhere.map((lock) => lock.refresh()));
    expect(elsewhere.map((lock) => [lock.held, lock.signal.aborted])).toEqual([
      [true, false],
      [true, false],
    ]);
    expect(sorted(await advisoryLocks())).toEqual(sorted(elsewhere));
  });

  test("leaves every key to the next one, on a new session", async () => {
    const pool = createPool({ max: 1 });
    await using locker = sharing(pool);
    const locks = await acquireMany(locker, 10);
    const [before] = await holdersOf(locks[0]?.id ?? 0n);
    await terminateHolder(locks[0]);
    await until(() => locks.every((lock) => !lock.held));
    const next = await Promise.all(locks.map((lock) => locker.acquire(lock.key)));
    const pids = new Set((await advisoryLocks()).map(({ pid }) => pid));
    expect([pids.size, pids.has(before ?? 0)]).toEqual([1, false]);
    // Those of before say nothing about those of now.
    for (const lock of locks) await expect(lock.release()).rejects.toMatchObject({ reason: "lost" });
    expect(sorted(await advisoryLocks())).toEqual(sorted(next));
  });

  test("while much is under way fails what was sent, and asks the rest again on a new session", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = sharing(pool);
    const locks = await acquireMany(locker, 20);
    proxy.freeze({ direction: "toServer" });
    const refreshed = locks.slice(0, 10).map((lock) => lock.refresh());
    const released = locks.slice(10).map((lock) => lock.release());
    const acquired = Array.from({ length: 20 }, () => locker.acquire(uniqueKey()));
    const all = Promise.allSettled([...refreshed, ...released, ...acquired]);
    await terminateHolder(locks[0]);
    await until(() => locks[0]?.held === false);
    proxy.thaw();
    const codes = (await all).map((each) => (each.status === "rejected" ? each.reason.code : "fulfilled"));
    expect(codes).toEqual([...Array(20).fill("LOCK_NOT_HELD"), ...Array(20).fill("fulfilled")]);
    await until(async () => (await advisoryLocks()).length === 20);
    for (const each of await Promise.all(acquired)) await each.release();
    await using again = await locker.acquire(locks[0]?.key ?? "");
    expect(again.held).toBe(true);
  });

  test("by a cut link is told at once to all that it carried", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = sharing(pool);
    const signals = (await acquireMany(locker, 10)).map((lock) => lock.signal);
    proxy.cut();
    await until(() => signals.every(({ reason }) => reason instanceof LockLostError));
    expect(pool.totalCount).toBe(0);
  });
});

describe("locks that are freed behind their holders' backs", () => {
  test.each(["refresh", "release"] as const)(
    "by DISCARD ALL are all lost, as the next %s says",
    async (what) => {
      const { pool, clients } = counting();
      await using locker = sharing(pool);
      const [lock, ...others] = await acquireMany(locker, 10);
      const signals = others.map(({ signal }) => signal);
      await clients[0]?.query("discard all");
      await expect(lock?.[what]()).rejects.toMatchObject({ reason: "lost" });
      expect(signals.every((signal) => signal.reason instanceof LockLostError)).toBe(true);
      expect(others.some(({ held }) => held)).toBe(false);
      expect(pool.totalCount).toBe(0);
    },
  );

  test("by DISCARD ALL are lost, as the next acquire says, which is granted nothing", async () => {
    const { pool, clients } = counting();
    await using locker = sharing(pool);
    const locks = await acquireMany(locker, 10);
    await clients[0]?.query("discard all");
    await expect(locker.acquire(uniqueKey())).rejects.toBeInstanceOf(DatabaseError);
    expect(locks.some(({ held }) => held)).toBe(false);
    await until(async () => (await advisoryLocks()).length === 0);
    await using next = await locker.acquire(uniqueKey());
    expect(next.held).toBe(true);
  });

  test("by pg_advisory_unlock_all are all lost, as the first release says", async () => {
    const { pool, clients } = counting();
    await using locker = sharing(pool);
    const [lock, ...others] = await acquireMany(locker, 10);
    const signals = others.map(({ signal }) => signal);
    await clients[0]?.query("select pg_advisory_unlock_all()");
    await expect(lock?.release()).rejects.toMatchObject({
      reason: "lost",
      cause: expect.any(DatabaseError),
    });
    expect(signals.every((signal) => signal.reason instanceof LockLostError)).toBe(true);
    expect(pool.totalCount).toBe(0);
  });
});

describe("an acquire that is aborted", () => {
  test("while the session is being opened holds nothing, and the session goes back", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = sharing(pool);
    proxy.freeze();
    const aborting = new AbortController();
    const acquired = locker.acquire(uniqueKey(), { signal: aborting.signal });
    await until(() => proxy.size === 1);
    aborting.abort(reason);
    await expect(acquired).rejects.toBe(reason);
    expect(getEventListeners(aborting.signal, "abort")).toEqual([]);
    proxy.thaw();
    await until(() => pool.totalCount === 1 && pool.idleCount === 1);
    expect(await advisoryLocks()).toEqual([]);
  });

  test("while the session is being opened keeps nobody else from it", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = sharing(pool);
    proxy.freeze();
    const aborting = new AbortController();
    const acquired = locker.acquire(uniqueKey(), { signal: aborting.signal });
    const other = locker.acquire(uniqueKey());
    await until(() => proxy.size === 1);
    aborting.abort(reason);
    await expect(acquired).rejects.toBe(reason);
    proxy.thaw();
    const lock = await other;
    expect(sorted(await advisoryLocks())).toEqual([lock.id]);
    await lock.release();
  });

  test("while it waits for a statement under way is never sent", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = counting({ connectionString: proxy.url });
    await using locker = sharing(pool);
    const lock = await locker.acquire(uniqueKey());
    proxy.freeze();
    statements.length = 0;
    const refreshed = lock.refresh();
    await until(() => statements.length === 1);
    const aborting = new AbortController();
    const acquired = locker.acquire(uniqueKey(), { signal: aborting.signal });
    await new Promise(setImmediate);
    aborting.abort(reason);
    await expect(acquired).rejects.toBe(reason);
    proxy.thaw();
    await refreshed;
    await lock.release();
    expect(statements).toHaveLength(2);
  });

  test.each(["toServer", "toClient"] as const)(
    "while what goes %s is on the way gives back what it is granted, and harms no other lock",
    async (direction) => {
      await using proxy = await TcpProxy.start(databaseUrl());
      const { pool, statements } = counting({ connectionString: proxy.url });
      await using locker = sharing(pool);
      const others = await acquireMany(locker, 5);
      proxy.freeze({ direction });
      statements.length = 0;
      const key = uniqueKey();
      const aborting = new AbortController();
      const acquired = locker.acquire(key, { signal: aborting.signal });
      await until(() => statements.length === 1);
      if (direction === "toClient") await until(async () => (await holdersOf(lockId(0, key))).length === 1);
      aborting.abort(reason);
      await expect(acquired).rejects.toBe(reason);
      expect(getEventListeners(aborting.signal, "abort")).toEqual([]);
      proxy.thaw();
      await until(() => statements.length === 2);
      await until(async () => (await holdersOf(lockId(0, key))).length === 0);
      await Promise.all(others.map((lock) => lock.refresh()));
      expect(others.every((lock) => lock.held && !lock.signal.aborted)).toBe(true);
      expect(sorted(await advisoryLocks())).toEqual(sorted(others));
      await (await locker.acquire(key)).release();
    },
  );

  test("as one more shared holder leaves the first one with the lock", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = counting({ connectionString: proxy.url });
    await using locker = sharing(pool);
    const key = uniqueKey();
    const lock = await locker.acquire(key, { mode: "shared" });
    proxy.freeze();
    statements.length = 0;
    const aborting = new AbortController();
    const acquired = locker.acquire(key, { mode: "shared", signal: aborting.signal });
    await until(() => statements.length === 1);
    aborting.abort(reason);
    await expect(acquired).rejects.toBe(reason);
    proxy.thaw();
    await lock.refresh();
    expect(await advisoryLocks()).toHaveLength(1);
    await lock.release();
    expect(await advisoryLocks()).toEqual([]);
  });

  test("does so 2,000 times with 50 callers, and leaves no lock, session, listener or timer", async () => {
    const timersBefore = timers();
    const pool = createPool({ max: 4 });
    const locker = sharing(pool, { maxLocksPerSession: 4 });
    const keys = Array.from({ length: 5 }, () => uniqueKey());
    const signals: AbortSignal[] = [];
    const counts = { granted: 0, aborted: 0, refused: 0 };
    const one = async (i: number): Promise<void> => {
      const aborting = new AbortController();
      signals.push(aborting.signal);
      const moment = Math.random();
      if (moment < 0.2) queueMicrotask(() => aborting.abort(reason));
      else if (moment < 0.4) setImmediate(() => aborting.abort(reason));
      else if (moment < 0.85) setTimeout(() => aborting.abort(reason), Math.random() * 6);
      const mode = i % 3 === 0 ? "shared" : "exclusive";
      const wait = i % 2 === 0 ? {} : { wait: "10s" };
      let lock: Lock;
      try {
        lock = await locker.acquire(keys[i % keys.length] ?? "", { signal: aborting.signal, mode, ...wait });
      } catch (error) {
        if (error === reason) counts.aborted += 1;
        else if (error instanceof LockNotAcquiredError) counts.refused += 1;
        else throw error;
        return;
      }
      counts.granted += 1;
      aborting.abort(reason);
      expect(lock.held).toBe(true);
      await lock.release();
    };
    let next = 0;
    const caller = async (): Promise<void> => {
      while (next < 2_000) await one(next++);
    };
    await Promise.all(Array.from({ length: 50 }, caller));
    await until(async () => (await advisoryLocks()).length === 0);
    await until(() => pool.totalCount === pool.idleCount && pool.waitingCount === 0);
    expect(signals.flatMap((signal) => getEventListeners(signal, "abort"))).toEqual([]);
    expect(counts.granted + counts.aborted + counts.refused).toBe(2_000);
    expect([counts.granted > 20, counts.aborted > 200]).toEqual([true, true]);
    await locker.close();
    await pool.end();
    await until(() => timers() <= timersBefore);
  });
});

describe("a server without room for another lock", () => {
  test("refuses those that it has no room for, by name, and keeps what is held", async () => {
    await using server = await smallServer();
    const admin = await connect({ connectionString: server.url });
    const pool = createPool({ connectionString: server.url, max: 2 });
    await using locker = sharing(pool, { maxLocksPerSession: 10_000 });
    const before = await acquireMany(locker, 20);
    const asked = await Promise.allSettled(Array.from({ length: 4_000 }, () => locker.acquire(uniqueKey())));
    const granted = asked.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
    const refused = asked.flatMap((each) => (each.status === "rejected" ? [each.reason] : []));
    expect(refused.length).toBeGreaterThan(0);
    for (const error of refused) {
      expect(error).toBeInstanceOf(LockTableFullError);
      expect(error).toMatchObject({ code: "LOCK_TABLE_FULL", cause: { code: "53200" } });
    }
    expect(refused[0].message).toContain("max_locks_per_transaction");
    expect(sorted(await locksOn(admin))).toEqual(sorted([...before, ...granted]));
    await Promise.all(before.map((lock) => lock.refresh()));
    expect(before.every((lock) => lock.held && !lock.signal.aborted)).toBe(true);
    expect(pool.totalCount).toBe(1);
    await Promise.all(granted.map((lock) => lock.release()));
    const next = await acquireMany(locker, 20);
    expect(sorted(await locksOn(admin))).toEqual(sorted([...before, ...next]));
  });

  test("refuses all the same where what is asked comes to a few", async () => {
    await using server = await smallServer();
    const admin = await connect({ connectionString: server.url });
    await using locker = sharing(createPool({ connectionString: server.url, max: 2 }));
    const locks = await acquireMany(locker, 20);
    await expect(fill(admin)).rejects.toMatchObject({ code: "53200" });
    for (const count of [1, 2, 7]) {
      const asked = await Promise.allSettled(
        Array.from({ length: count }, () => locker.acquire(uniqueKey(), { fencing: count === 2 })),
      );
      for (const each of asked)
        expect((each as PromiseRejectedResult).reason).toBeInstanceOf(LockTableFullError);
    }
    await Promise.all(locks.map((lock) => lock.refresh()));
    expect(sorted(await locksOn(admin))).toEqual(sorted(locks));
    await admin.query("select pg_advisory_unlock_all()");
    await Promise.all(locks.map((lock) => lock.release()));
    await acquireMany(locker, 20);
  });

  test("takes back every lock while there is none", async () => {
    await using server = await smallServer();
    const admin = await connect({ connectionString: server.url });
    const pool = createPool({ connectionString: server.url, max: 2 });
    await using locker = sharing(pool);
    const [alone, ...locks] = await acquireMany(locker, 20);
    const kept = locks.slice(10);
    await expect(fill(admin)).rejects.toMatchObject({ code: "53200" });
    await alone?.release();
    await Promise.all(locks.slice(0, 10).map((lock) => lock.release()));
    expect(sorted(await locksOn(admin))).toEqual(sorted(kept));
    expect(kept.every((lock) => lock.held && !lock.signal.aborted)).toBe(true);
    expect(pool.totalCount).toBe(1);
  });

  test("refuses a locker that has no session yet", async () => {
    await using server = await smallServer();
    const admin = await connect({ connectionString: server.url });
    const pool = createPool({ connectionString: server.url, max: 2 });
    await using locker = sharing(pool);
    await expect(fill(admin)).rejects.toMatchObject({ code: "53200" });
    const asked = await Promise.allSettled([1, 2, 3].map(() => locker.acquire(uniqueKey())));
    for (const each of asked)
      expect((each as PromiseRejectedResult).reason).toBeInstanceOf(LockTableFullError);
    await admin.query("select pg_advisory_unlock_all()");
    await acquireMany(locker, 20);
  });

  test("keeps what each of two lockers holds while both ask for more than there is", async () => {
    await using server = await smallServer();
    const admin = await connect({ connectionString: server.url });
    const options = { maxLocksPerSession: 10_000 };
    await using one = sharing(createPool({ connectionString: server.url, max: 1 }), options);
    await using two = sharing(createPool({ connectionString: server.url, max: 1 }), options);
    const before = (await Promise.all([acquireMany(one, 20), acquireMany(two, 20)])).flat();
    const granted: Lock[] = [];
    const greedy = async (locker: PostgresLocker): Promise<void> => {
      for (let round = 0; round < 6; round++) {
        const asked = await Promise.allSettled(
          Array.from({ length: 1_500 }, () => locker.acquire(uniqueKey())),
        );
        const mine: Lock[] = [];
        for (const each of asked) {
          if (each.status === "fulfilled") mine.push(each.value);
          else expect(each.reason).toBeInstanceOf(LockTableFullError);
        }
        const kept = round === 5 ? mine.length : 0;
        granted.push(...mine.slice(0, kept));
        await Promise.all(mine.slice(kept).map((lock) => lock.release()));
      }
    };
    await Promise.all([greedy(one), greedy(two)]);
    expect(before.filter((lock) => !lock.held || lock.signal.aborted)).toEqual([]);
    expect(sorted(await locksOn(admin))).toEqual(sorted([...before, ...granted]));
    await Promise.all(before.map((lock) => lock.refresh()));
  });

  test('refuses with sessions: "dedicated" as well', async () => {
    await using server = await smallServer();
    const admin = await connect({ connectionString: server.url });
    await using locker = new PostgresLocker({
      pool: createPool({ connectionString: server.url, max: 2 }),
      sessions: "dedicated",
    });
    const kept = await locker.acquire(uniqueKey());
    const client = await connect({ connectionString: server.url });
    await client.query("begin");
    await (await locker.acquire(uniqueKey())).release();
    await expect(fill(admin)).rejects.toMatchObject({ code: "53200" });
    const refused = await locker.acquire(uniqueKey()).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(LockTableFullError);
    expect((refused as Error).message).toContain("max_locks_per_transaction");
    const never = () => expect.unreachable();
    await expect(locker.withTransaction(uniqueKey(), never)).rejects.toBeInstanceOf(LockTableFullError);
    const callers = locker.withTransaction(uniqueKey(), never, { client });
    await expect(callers).rejects.toBeInstanceOf(LockTableFullError);
    await client.query("rollback");
    await kept.refresh();
    await admin.query("select pg_advisory_unlock_all()");
    await (await locker.acquire(uniqueKey())).release();
    await kept.release();
  });
});

test("statements that an administrator cancels at any moment leave in the server what the handles say", async () => {
  const pool = createPool({ max: 2 });
  await using locker = sharing(pool);
  await locker.acquire(uniqueKey());
  let over = false;
  const cancelling = (async () => {
    while (!over) {
      await onServer(
        "select pg_cancel_backend(pid) from pg_locks, generate_series(1, 3) where locktype = 'advisory' and database = (select oid from pg_database where datname = $1)",
        [new URL(databaseUrl()).pathname.slice(1)],
      );
    }
  })();
  const handles: Lock[] = [];
  let cancelled = 0;
  try {
    for (let round = 0; round < 40 || (cancelled === 0 && round < 1_000); round++) {
      const asked = await Promise.allSettled(Array.from({ length: 200 }, () => locker.acquire(uniqueKey())));
      const mine: Lock[] = [];
      for (const each of asked) {
        if (each.status === "fulfilled") mine.push(each.value);
        else {
          expect(each.reason).toMatchObject({ code: "DATABASE_ERROR" });
          cancelled += 1;
        }
      }
      handles.push(...mine.slice(0, 10));
      await Promise.allSettled(mine.slice(10).map((lock) => lock.release()));
    }
  } finally {
    over = true;
    await cancelling;
  }
  const rest = handles.filter((lock) => lock.held);
  // The first lock of the test has no name any more.
  const inServer = (await advisoryLocks()).filter(({ id }) => handles.some((lock) => lock.id === id));
  expect(sorted(inServer)).toEqual(sorted(rest));
  expect((await advisoryLocks()).length - inServer.length).toBeLessThanOrEqual(1);
  expect(cancelled).toBeGreaterThan(0);
});

describe("close", () => {
  test("frees 500 locks, and ends 50 acquires under way", async () => {
    const pool = createPool();
    const locker = sharing(pool);
    const locks = await acquireMany(locker, 500);
    const signals = locks.map((lock) => lock.signal);
    const acquired = Promise.allSettled(Array.from({ length: 50 }, () => locker.acquire(uniqueKey())));
    await locker.close();
    expect(await advisoryLocks()).toEqual([]);
    expect([pool.totalCount, pool.idleCount, pool.waitingCount]).toEqual([1, 1, 0]);
    for (const each of await acquired)
      expect(each).toMatchObject({ status: "rejected", reason: { code: "LOCKER_CLOSED" } });
    expect(signals.every((signal) => signal.reason instanceof LockLostError)).toBe(true);
    for (const lock of locks) expect(lock.held).toBe(false);
    await expect(locks[0]?.release()).rejects.toMatchObject({ reason: "closed" });
  });

  test("ends acquires that are on the way, and frees what they are granted", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = counting({ connectionString: proxy.url });
    const locker = sharing(pool);
    await acquireMany(locker, 10);
    proxy.freeze({ direction: "toClient" });
    statements.length = 0;
    const keys = Array.from({ length: 50 }, () => uniqueKey());
    const acquired = Promise.allSettled(keys.map((key) => locker.acquire(key)));
    await until(() => statements.length === 1);
    const closed = locker.close();
    for (const each of await acquired) expect(each).toMatchObject({ reason: { code: "LOCKER_CLOSED" } });
    proxy.thaw();
    await closed;
    expect(await advisoryLocks()).toEqual([]);
    expect([pool.totalCount, pool.idleCount]).toEqual([1, 1]);
  });

  test("frees a lock that one more shared holder is about to have", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = counting({ connectionString: proxy.url });
    const locker = sharing(pool);
    const key = uniqueKey();
    await locker.acquire(key, { mode: "shared" });
    proxy.freeze({ direction: "toClient" });
    statements.length = 0;
    const acquired = locker.acquire(key, { mode: "shared" }).catch((error: unknown) => error);
    await until(() => statements.length === 1);
    const closed = locker.close();
    expect(await acquired).toMatchObject({ code: "LOCKER_CLOSED" });
    proxy.thaw();
    await closed;
    expect(await advisoryLocks()).toEqual([]);
    expect(pool.idleCount).toBe(1);
  });

  test("frees a lock that was lost because nobody answered", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    const locker = sharing(pool);
    const { signal } = await locker.acquire(uniqueKey(), { ttl: 400, autoRefresh: true });
    proxy.freeze({ direction: "toClient" });
    await until(() => signal.aborted);
    const closed = locker.close();
    proxy.thaw();
    await closed;
    expect(await advisoryLocks()).toEqual([]);
    expect(pool.totalCount).toBe(pool.idleCount);
  });

  test("gives up on a server that answers no more, and ends the session with all its locks", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    const locker = sharing(pool);
    await acquireMany(locker, 20);
    proxy.freeze();
    await locker.close();
    expect(pool.totalCount).toBe(0);
    proxy.thaw();
    await until(async () => (await advisoryLocks()).length === 0);
  });

  test("while the session is being opened does not hang", async () => {
    await closeWhileOpening({});
  });

  test("while the session is being opened does not hang where a connection is waited for without a bound", async () => {
    await closeWhileOpening({ connWaitTimeout: -1 });
  });

  test("gives a session back at once that carries nothing", async () => {
    const pool = createPool();
    const locker = sharing(pool);
    await (await locker.acquire(uniqueKey())).release();
    await locker.close();
    expect([pool.totalCount, pool.idleCount]).toEqual([1, 1]);
  });
});

describe("a TTL that the server enforces", () => {
  test("is, for all on one session, the smallest: nobody believes when another has any of them", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = enforced(createPool({ connectionString: proxy.url }));
    await using other = enforced();
    const short = await locker.acquire(uniqueKey(), { ttl: 700, autoRefresh: true });
    const long = await locker.acquire(uniqueKey(), { ttl: 1_000, autoRefresh: true });
    const signals = [short.signal, long.signal];
    proxy.freeze();
    for (const lock of [long, short]) {
      await using _next = await until(() => other.tryAcquire(lock.key), { interval: 1 });
      expect([short.held, long.held]).toEqual([false, false]);
    }
    await until(() => signals.every((signal) => signal.aborted));
  });

  test("ends belief in all of them by the clock alone", async () => {
    await using locker = enforced();
    await using other = enforced();
    const short = await locker.acquire(uniqueKey(), { ttl: 700, autoRefresh: true });
    const long = await locker.acquire(uniqueKey(), { ttl: 1_000, autoRefresh: true });
    blockFor(1_400);
    expect([short.held, long.held]).toEqual([false, false]);
    expect(() => long.assertHeld()).toThrow();
    await using _next = await until(() => other.tryAcquire(long.key));
    await expect(long.release()).rejects.toMatchObject({ code: "LOCK_NOT_HELD" });
    await expect(short.release()).rejects.toMatchObject({ code: "LOCK_NOT_HELD" });
  });

  test("is kept by the locker, whoever of the others refreshes or not", async () => {
    await using locker = enforced();
    const short = await locker.acquire(uniqueKey(), { ttl: 700, autoRefresh: true });
    const long = await locker.acquire(uniqueKey(), { ttl: "30s" });
    const witness = await witnessOf(2_500);
    await until(() => !witness.held);
    expect([short.held, long.held, long.signal.aborted]).toEqual([true, true, false]);
    await short.release();
    await long.refresh();
    await long.release();
  });

  test("that lapses frees its own lock alone", async () => {
    await using locker = enforced();
    await using other = enforced();
    const lapsing = await locker.acquire(uniqueKey(), { ttl: 700 });
    const { signal } = lapsing;
    const refreshed = await locker.acquire(uniqueKey(), { ttl: 700, autoRefresh: true });
    const long = await locker.acquire(uniqueKey(), { ttl: "30s" });
    const next = await until(() => other.tryAcquire(lapsing.key), { interval: 1 });
    expect(lapsing.held).toBe(false);
    expect(signal.reason).toBeInstanceOf(LockExpiredError);
    await expect(lapsing.release()).rejects.toMatchObject({ reason: "expired" });
    expect([refreshed, long].map((lock) => [lock.held, lock.signal.aborted])).toEqual([
      [true, false],
      [true, false],
    ]);
    expect(sorted(await advisoryLocks())).toEqual(sorted([next, refreshed, long]));
  });

  test("no longer binds a session once its lock is released", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = enforced(createPool({ connectionString: proxy.url }));
    const short = await locker.acquire(uniqueKey(), { ttl: 700 });
    const long = await locker.acquire(uniqueKey(), { ttl: "30s" });
    await short.release();
    await long.refresh();
    proxy.freeze();
    const witness = await witnessOf(1_500);
    await until(() => !witness.held);
    expect(long.held).toBe(true);
    proxy.thaw();
    await long.refresh();
  });

  test("that was short fails no acquire that comes after its lock was released", async () => {
    await using locker = enforced();
    for (let round = 0; round < 3; round++) {
      const lock = await locker.acquire(uniqueKey(), { ttl: 300 });
      await lock.release();
      // The session waits for the next lock, and the server for a word of it.
      blockFor(600);
      await (await locker.acquire(uniqueKey(), { ttl: "30s" })).release();
    }
  });

  test("that has passed unseen fails no acquire of another lock", async () => {
    await using locker = enforced();
    const lock = await locker.acquire(uniqueKey(), { ttl: 300 });
    blockFor(600);
    await using next = await locker.acquire(uniqueKey(), { ttl: "30s" });
    expect([lock.held, next.held]).toEqual([false, true]);
  });

  test("that a refresh makes shorter is the session's from then on", async () => {
    await using locker = enforced();
    const lock = await locker.acquire(uniqueKey(), { ttl: "30s" });
    await lock.refresh(250);
    const { signal } = lock;
    await using other = enforced();
    await using _next = await until(() => other.tryAcquire(lock.key), { interval: 1 });
    expect(lock.held).toBe(false);
    await until(() => signal.aborted);
  });
});

test.each(["client", "server"] as const)(
  "200 locks that refresh themselves cost a few statements a round, with ttlEnforcement: %j",
  async (ttlEnforcement) => {
    const { pool, statements } = counting();
    await using locker = sharing(pool, { ttlEnforcement });
    const locks = await acquireMany(locker, 200, { ttl: 1_500, autoRefresh: true });
    statements.length = 0;
    const witness = await witnessOf(4_500);
    await until(() => !witness.held);
    expect(locks.every((lock) => lock.held && !lock.signal.aborted)).toBe(true);
    expect(statements.length).toBeGreaterThan(0);
    expect(statements.length).toBeLessThan(100);
    await Promise.all(locks.map((lock) => lock.release()));
  },
);

test("two keys with one id are told apart by name", async () => {
  // Two real keys of namespace 0 with one FNV-1a hash.
  const [one, other] = ["amf2oiyzezvcf", "msmbnqwkrawwd"] as const;
  await using locker = sharing();
  const lock = await locker.acquire(one);
  const collision = { reason: "id-collision", key: other, otherKey: one };
  await expect(locker.acquire(other)).rejects.toMatchObject(collision);
  await expect(locker.tryAcquire(other)).rejects.toMatchObject(collision);
  await expect(locker.acquire(one)).rejects.toMatchObject({ reason: "held" });
  expect(await advisoryLocks()).toHaveLength(1);
  await lock.release();
  await (await locker.acquire(other)).release();
});

describe("without a session to be had", () => {
  test("all who want one are told that the pool is saturated, and it is there when the pool has one", async () => {
    const pool = createPool({ max: 2 });
    await using locker = sharing(pool, { connWaitTimeout: 200 });
    const [client, other] = [await pool.connect(), await pool.connect()];
    const asked = await Promise.allSettled(Array.from({ length: 20 }, () => locker.acquire(uniqueKey())));
    for (const each of asked)
      expect(each).toMatchObject({
        status: "rejected",
        reason: { code: "LOCK_NOT_ACQUIRED", reason: "pool-saturated" },
      });
    client.release();
    other.release();
    await until(() => pool.waitingCount === 0 && pool.idleCount === 2);
    await (await locker.acquire(uniqueKey())).release();
  });

  test("all who want one are told that the server does not answer", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = sharing(pool, { connWaitTimeout: 200 });
    proxy.freeze();
    const asked = await Promise.allSettled(Array.from({ length: 20 }, () => locker.acquire(uniqueKey())));
    for (const each of asked) expect(each).toMatchObject({ reason: { reason: "connection-timeout" } });
    proxy.thaw();
    await until(() => pool.totalCount === pool.idleCount);
    await using locks = await locker.acquireAll([uniqueKey(), uniqueKey()]);
    expect(locks.held).toBe(true);
  });

  test("all who want one are told that the server refuses", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = sharing(pool);
    await proxy.refuse();
    const asked = await Promise.allSettled(Array.from({ length: 20 }, () => locker.acquire(uniqueKey())));
    for (const each of asked) expect((each as PromiseRejectedResult).reason).toBeInstanceOf(DatabaseError);
    expect(pool.totalCount).toBe(0);
    await proxy.accept();
    await (await locker.acquire(uniqueKey())).release();
  });

  test("all who want one are told of the pooler in the way, and nothing is set or locked", async () => {
    const { pool, clients } = counting({ application_name: "somebody's" });
    pool.on("connect", (client) => {
      (client as unknown as { processID: number }).processID += 1_000_000;
    });
    await using locker = sharing(pool);
    const asked = await Promise.allSettled(Array.from({ length: 20 }, () => locker.acquire(uniqueKey())));
    for (const each of asked) {
      const { reason: error } = each as PromiseRejectedResult;
      expect(error).toBeInstanceOf(PoolerDetectedError);
      expect(error.message).toContain('pooler: "session"');
    }
    expect([await advisoryLocks(), pool.totalCount, clients.length]).toEqual([[], 0, 1]);
    await using trusting = sharing(pool, { pooler: "session" });
    await using lock = await trusting.acquire(uniqueKey());
    await lock.refresh();
  });

  test("that answers in time, one that stops answering later is destroyed with all that it carries", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = sharing(pool);
    const lock = await locker.acquire(uniqueKey(), { ttl: "1m" });
    const { signal } = lock;
    proxy.freeze();
    await expect(locker.acquire(uniqueKey())).rejects.toBeInstanceOf(DatabaseError);
    expect([lock.held, signal.reason instanceof LockLostError, pool.totalCount]).toEqual([false, true, 0]);
    proxy.thaw();
    await until(async () => (await advisoryLocks()).length === 0);
  });
});

describe("fencing tokens", () => {
  test("grow from each holder to the next, over two lockers that take a hundred keys at a time", async () => {
    await using one = sharing();
    await using two = sharing();
    const keys = Array.from({ length: 100 }, () => uniqueKey());
    const last = new Map<string, bigint>();
    for (let round = 0; round < 6; round++) {
      const locker = round % 2 === 0 ? one : two;
      const locks = await Promise.all(keys.map((key) => locker.acquire(key, { fencing: true })));
      for (const { key, fencingToken } of locks) {
        expect(fencingToken).toBeGreaterThan(last.get(key) ?? 0n);
        last.set(key, fencingToken ?? 0n);
      }
      await Promise.all(locks.map((lock) => lock.release()));
    }
  });

  test("grow in the order of the grants where two lockers contend", async () => {
    await using one = sharing();
    await using two = sharing();
    const keys = Array.from({ length: 4 }, () => uniqueKey());
    const tokens = new Map<string, bigint[]>(keys.map((key) => [key, []]));
    const work = keys.flatMap((key) =>
      Array.from({ length: 20 }, (_, i) =>
        (i % 2 === 0 ? one : two).withLock(
          key,
          (lock) => void tokens.get(key)?.push(lock.fencingToken ?? 0n),
          { fencing: true, wait: "15s" },
        ),
      ),
    );
    await Promise.all(work);
    for (const drawn of tokens.values()) {
      expect(drawn).toHaveLength(20);
      drawn.reduce((before, token) => {
        expect(token).toBeGreaterThan(before);
        return token;
      }, 0n);
    }
  });

  test("grow from a shared holder to the next exclusive one, also where it only joined another", async () => {
    await using locker = sharing();
    const key = uniqueKey();
    const shared: AcquireOptions = { mode: "shared", fencing: true };
    const first = await locker.acquire(key, { ...shared, fencing: false });
    const joined = await locker.acquire(key, shared);
    expect([first.fencingToken, typeof joined.fencingToken]).toEqual([undefined, "bigint"]);
    await first.release();
    await joined.release();
    await using next = await locker.acquire(key, { fencing: true });
    expect(next.fencingToken).toBeGreaterThan(joined.fencingToken ?? 0n);
  });
});

function sharing(
  pool: pg.Pool = createPool(),
  options: Omit<PostgresLockerOptions, "pool" | "sessions"> = {},
): PostgresLocker {
  return new PostgresLocker({ pool, sessions: "shared", ...options });
}

function enforced(pool?: pg.Pool): PostgresLocker {
  return sharing(pool, { ttlEnforcement: "server" });
}

/** All at the same moment, each of a key of its own. */
function acquireMany(locker: PostgresLocker, count: number, options?: AcquireOptions): Promise<Lock[]> {
  return Promise.all(Array.from({ length: count }, () => locker.acquire(uniqueKey(), options)));
}

/** A lock that nobody refreshes: when it lapses, so many milliseconds have passed. */
async function witnessOf(ttl: number): Promise<Lock> {
  const locker = new PostgresLocker({ pool: createPool(), sessions: "dedicated" });
  const lock = await locker.acquire(uniqueKey(), { ttl });
  void until(() => !lock.held, { deadline: ttl + 5_000 }).then(() => locker.close());
  return lock;
}

function sorted(some: readonly { readonly id: bigint }[]): bigint[] {
  return some.map(({ id }) => id).sort((a, b) => (a < b ? -1 : 1));
}

/** How many locks each session has, most first. */
async function loads(): Promise<number[]> {
  const counts = new Map<number, number>();
  for (const { pid } of await advisoryLocks()) counts.set(pid, (counts.get(pid) ?? 0) + 1);
  return [...counts.values()].sort((a, b) => b - a);
}

async function terminateHolder(lock: Lock | undefined): Promise<void> {
  const pids = await holdersOf(lock?.id ?? 0n);
  expect(pids).toHaveLength(1);
  await onServer("select pg_terminate_backend($1)", pids);
}

/** A pool with its clients, and what is sent on them. */
function counting(config: pg.PoolConfig = {}): {
  pool: pg.Pool;
  clients: pg.PoolClient[];
  statements: unknown[];
} {
  const pool = createPool(config);
  const clients: pg.PoolClient[] = [];
  const statements: unknown[] = [];
  pool.on("connect", (client) => {
    clients.push(client);
    const query = client.query.bind(client) as (...args: unknown[]) => unknown;
    (client as { query: unknown }).query = (...args: unknown[]) => {
      statements.push(args[0]);
      return query(...args);
    };
  });
  return { pool, clients, statements };
}

function smallServer(): Promise<PostgresServer> {
  const settings = { max_locks_per_transaction: 10, max_connections: 10 };
  return PostgresServer.start({ major: inject("postgresMajor"), settings });
}

/** The locks of all sessions but the one that asks. */
async function locksOn(client: pg.Client): Promise<{ id: bigint }[]> {
  const { rows } = await client.query<{ id: string }>(
    `select ((classid::bigint << 32) | objid::bigint)::text as id from pg_locks
      where locktype = 'advisory' and pid <> pg_backend_pid()`,
  );
  return rows.map(({ id }) => ({ id: BigInt(id) }));
}

async function closeWhileOpening(options: Pick<PostgresLockerOptions, "connWaitTimeout">): Promise<void> {
  await using proxy = await TcpProxy.start(databaseUrl());
  const pool = createPool({ connectionString: proxy.url });
  const locker = sharing(pool, options);
  proxy.freeze();
  const acquired = locker.acquire(uniqueKey()).catch((error: unknown) => error);
  await until(() => proxy.size === 1);
  let isClosed = false;
  void locker.close().then(() => {
    isClosed = true;
  });
  expect(await acquired).toMatchObject({ code: "LOCKER_CLOSED" });
  const hangs = await until(() => isClosed, { deadline: 8_000 }).catch((error: unknown) => error);
  proxy.thaw();
  await until(() => isClosed && pool.totalCount === pool.idleCount);
  expect(await advisoryLocks()).toEqual([]);
  expect(hangs).toBe(true);
}

/** Until there is no room for another lock. Those before the one that fails stay. */
async function fill(client: pg.Client): Promise<void> {
  await client.query("select pg_advisory_lock(n) from generate_series(1, 100000) as n");
}

function timers(): number {
  return process.getActiveResourcesInfo().filter((resource) => resource === "Timeout").length;
}

/** Runs no timer and no callback for so long. */
function blockFor(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

async function settings(pool: pg.Pool): Promise<Record<string, unknown>> {
  const { rows } = await pool.query<{ pid: number; all: Record<string, string> }>(
    `select pg_backend_pid() as pid, json_object_agg(name, current_setting(name)) as all from pg_settings
      where name like 'tcp%' or name like '%timeout' or name like 'default_transaction%'
         or name in ('application_name', 'synchronous_commit')`,
  );
  return { ...rows[0]?.all, pid: rows[0]?.pid };
}

async function createRole(
  parts: Readonly<Record<string, string>>,
): Promise<AsyncDisposable & { readonly url: string }> {
  const user = uniqueKey("role").replace(":", "_");
  await onServer(`create role ${user} login password 'secret'`);
  for (const [name, value] of Object.entries(parts))
    await onServer(`alter role ${user} set ${name} = '${value}'`);
  return {
    url: urlWith({ user, password: "secret" }),
    [Symbol.asyncDispose]: async () => {
      await onServer(`drop role ${user}`);
    },
  };
}
