import { describe, expect, test } from "vitest";
import { type AcquireOptions, LockNotHeldError, lockId } from "../../src/index.ts";
import {
  advisoryLocks,
  createPool,
  createRole,
  databaseUrl,
  holdersOf,
  uniqueKey,
} from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { observedPool } from "../support/observed-pool.ts";
import { sessionSettings } from "../support/session-settings.ts";
import { acquireMany, sortedIds } from "../support/shared-locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// With `sessions: "shared"`, one session carries many locks: each is as good as on a session of its own.

describe("the sessions of a locker", () => {
  test("are one for a hundred locks", async () => {
    const pool = createPool();
    await using locker = createLocker({ pool, sessions: "shared" });
    const locks = await acquireMany(locker, 100);
    const held = await advisoryLocks();
    expect(sortedIds(held)).toEqual(sortedIds(locks));
    expect(new Set(held.map(({ pid }) => pid)).size).toBe(1);
    expect([pool.totalCount, pool.idleCount]).toEqual([1, 0]);
    await Promise.all(locks.map((lock) => lock.release()));
    expect(await advisoryLocks()).toEqual([]);
    await until(() => pool.idleCount === 1);
  });

  test("are as many as maxLocksPerSession makes them, each filled before the next", async () => {
    const pool = createPool();
    await using locker = createLocker({ pool, sessions: "shared", maxLocksPerSession: 10 });
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
    await using locker = createLocker({ pool, sessions: "shared", maxLocksPerSession: 2 });
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
    await using locker = createLocker({ pool, sessions: "shared" });
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
        settings: {
          idle_session_timeout: "600000",
          statement_timeout: "61000",
          default_transaction_isolation: "serializable",
          default_transaction_read_only: "on",
          synchronous_commit: "off",
          tcp_keepalives_idle: "77",
          tcp_keepalives_interval: "11",
          tcp_keepalives_count: "5",
          tcp_user_timeout: "123456",
        },
      });
      const pool = createPool({ connectionString: role.url, max: 2, application_name: "somebody's" });
      await using locker = createLocker({ pool, sessions: "shared", ttlEnforcement });
      const before = await sessionSettings(pool);
      expect(before).toMatchObject({ application_name: "somebody's", tcp_user_timeout: "123456" });
      const locks = await acquireMany(locker, 3, { ttl: "1m", fencing: true });
      await Promise.all(locks.map((lock) => lock.refresh("2m")));
      await Promise.all(locks.map((lock) => lock.release()));
      await until(() => pool.idleCount === 1);
      expect(await sessionSettings(pool)).toEqual(before);
    },
  );

  test("are not ended by their role's settings", async () => {
    await using role = await createRole({
      settings: { idle_session_timeout: "300", statement_timeout: "100" },
    });
    const { pool, clients } = observedPool({ connectionString: role.url });
    await using locker = createLocker({ pool, sessions: "shared" });
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

  test("leave the rest of the pool to the work under the locks", async () => {
    const pool = createPool({ max: 3 });
    await using locker = createLocker({ pool, sessions: "shared" });
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
    await using locker = createLocker({ sessions: "shared" });
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
  ] as const)(
    "held %s is refused to a caller that wants it %s; one release frees it",
    async (mode, wanted) => {
      await using locker = createLocker({ sessions: "shared" });
      await using other = createLocker({ sessions: "shared" });
      const key = uniqueKey();
      await using _neighbour = await locker.acquire(uniqueKey());
      const lock = await locker.acquire(key, { mode });
      for (const each of [locker, other])
        await expect(each.acquire(key, { mode: wanted })).rejects.toMatchObject({ reason: "held" });
      expect(await holdersOf(lock.id)).toHaveLength(1);
      await lock.release();
      expect(await holdersOf(lock.id)).toEqual([]);
      await (await other.acquire(key, { mode: wanted })).release();
    },
  );

  test("is locked once for all its shared holders, and free after the last of them", async () => {
    await using locker = createLocker({ sessions: "shared" });
    await using other = createLocker({ sessions: "shared" });
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

  test("stays with its other shared holders if one is released during its refresh", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = observedPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
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

  test("harms no other if given up twice, by an unanswered refresh and by release()", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const { pool, statements } = observedPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool, sessions: "shared" });
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
    await using locker = createLocker({ sessions: "shared" });
    await using other = createLocker({ sessions: "shared" });
    const key = uniqueKey();
    const locks = await Promise.all(
      [locker, locker, other, other].map((each) => each.acquire(key, { mode: "shared" })),
    );
    expect(await advisoryLocks()).toHaveLength(2);
    await Promise.all(locks.map((lock) => lock.release()));
    await (await other.acquire(key)).release();
  });

  test("goes in turn to each of many waiters in two lockers", async () => {
    const lockers = [createLocker({ sessions: "shared" }), createLocker({ sessions: "shared" })] as const;
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

test("two keys with one id are told apart by name", async () => {
  // Two real keys of namespace 0 that have the same FNV-1a hash.
  const [one, other] = ["amf2oiyzezvcf", "msmbnqwkrawwd"] as const;
  await using locker = createLocker({ sessions: "shared" });
  const lock = await locker.acquire(one);
  const collision = { reason: "id-collision", key: other, otherKey: one };
  await expect(locker.acquire(other)).rejects.toMatchObject(collision);
  await expect(locker.tryAcquire(other)).rejects.toMatchObject(collision);
  await expect(locker.acquire(one)).rejects.toMatchObject({ reason: "held" });
  expect(await advisoryLocks()).toHaveLength(1);
  await lock.release();
  await (await locker.acquire(other)).release();
});

describe("fencing tokens", () => {
  test("grow from each holder to the next, over two lockers with a hundred keys each", async () => {
    await using one = createLocker({ sessions: "shared" });
    await using two = createLocker({ sessions: "shared" });
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

  test("grow in the order of the grants if two lockers contend", async () => {
    await using one = createLocker({ sessions: "shared" });
    await using two = createLocker({ sessions: "shared" });
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

  test("grow from a shared holder, even one that joined another, to an exclusive one", async () => {
    await using locker = createLocker({ sessions: "shared" });
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

/** The number of locks on each session, the largest first. */
async function loads(): Promise<number[]> {
  const counts = new Map<number, number>();
  for (const { pid } of await advisoryLocks()) counts.set(pid, (counts.get(pid) ?? 0) + 1);
  return [...counts.values()].sort((a, b) => b - a);
}
