import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import { LockerClosedError, lockId, PostgresLocker } from "../../src/index.ts";
import { Child } from "../support/child.ts";
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

const database = new URL(databaseUrl()).pathname.slice(1);

/** The sessions of lockers in this file's database; those that listen for releases, where `listening` says so. */
async function sessions(listening?: "listening") {
  return await onServer<{ pid: number; application_name: string; pinned: boolean }>(
    `select pid, application_name, backend_xmin is not null or backend_xid is not null as pinned
       from pg_stat_activity
      where datname = $1 and application_name like $2`,
    [database, listening ? "pg-locker % (listens for those who wait)" : "pg-locker %"],
  );
}

/** Resolves when somebody is known in the server to wait for a lock. */
async function markers(count = 1): Promise<void> {
  await until(
    async () => (await advisoryLocks()).filter(({ mode }) => mode === "ShareLock").length === count,
  );
}

describe("a caller that waits", () => {
  test("keeps no connection meanwhile: a pool of one serves others", async () => {
    await using holder = new PostgresLocker({ pool: createPool() });
    const pool = createPool({ max: 1 });
    await using locker = new PostgresLocker({ pool });
    const key = uniqueKey();
    const lock = await holder.acquire(key);
    const waiting = locker.acquire(key, { wait: true });
    await markers();
    for (let i = 0; i < 3; i += 1) await (await locker.acquire(uniqueKey())).release();
    await until(() => pool.idleCount === pool.totalCount);
    await lock.release();
    await (await waiting).release();
  });

  test("is one of many in its process, of whom one goes to the database", async () => {
    await using holder = new PostgresLocker({ pool: createPool() });
    const pool = createPool({ max: 3 });
    await using locker = new PostgresLocker({ pool });
    const key = uniqueKey();
    const lock = await holder.acquire(key);
    let served = 0;
    const crowd = Array.from({ length: 100 }, () =>
      locker.withLock(
        key,
        () => {
          served += 1;
        },
        { wait: true },
      ),
    );
    await markers();
    expect(pool.totalCount).toBe(1);
    expect(await sessions("listening")).toHaveLength(1);
    expect(await holdersOf(lock.id)).toHaveLength(1);
    await lock.release();
    await Promise.all(crowd);
    expect(served).toBe(100);
    expect(pool.totalCount).toBe(1);
  });

  test("asks the server for nothing while the lock is held in its own locker", async () => {
    const pool = createPool();
    await using locker = new PostgresLocker({ sessions: "dedicated", pool });
    const key = uniqueKey();
    const lock = await locker.acquire(key);
    let reserved = 0;
    pool.on("acquire", () => {
      reserved += 1;
    });
    const crowd = Array.from({ length: 10 }, () => locker.withLock(key, () => {}, { wait: true }));
    await (await locker.acquire(uniqueKey())).release();
    expect(reserved).toBe(1);
    await lock.release();
    await Promise.all(crowd);
    expect(await sessions("listening")).toEqual([]);
  });

  test("and is aborted leaves nothing behind, at whatever point: a storm of 2,000", async () => {
    const holder = new PostgresLocker({ pool: createPool() });
    const pool = createPool({ max: 5 });
    const key = uniqueKey();
    let stop = false;
    const handing = (async () => {
      while (!stop)
        await holder.withLock(key, () => new Promise((resolve) => setTimeout(resolve, 1)), { wait: true });
    })();
    {
      await using locker = new PostgresLocker({ pool });
      const reason = new Error("the caller's own");
      const counts = { granted: 0, aborted: 0 };
      const caller = async (): Promise<void> => {
        for (let i = 0; i < 50; i += 1) {
          const aborting = new AbortController();
          const { signal } = aborting;
          // Some have all the time that they need, or on a busy machine nobody would be granted it.
          if (i % 25 > 0) setTimeout(() => aborting.abort(reason), Math.random() * 20);
          try {
            await (await locker.acquire(key, { wait: true, signal })).release();
            counts.granted += 1;
          } catch (error) {
            expect(error).toBe(reason);
            counts.aborted += 1;
          }
          expect(getEventListeners(signal, "abort")).toEqual([]);
        }
      };
      try {
        await Promise.all(Array.from({ length: 40 }, caller));
      } finally {
        stop = true;
        await handing;
        await holder.close();
      }
      expect(counts.granted).toBeGreaterThanOrEqual(80);
      expect(counts.aborted).toBeGreaterThan(0);
      expect(counts.granted + counts.aborted).toBe(2_000);
      await until(async () => (await advisoryLocks()).length === 0);
      await until(() => pool.idleCount === pool.totalCount);
    }
    await until(async () => (await sessions("listening")).length === 0);
  });

  test("is told when its locker closes, and nothing is left", async () => {
    await using holder = new PostgresLocker({ pool: createPool() });
    const locker = new PostgresLocker({ pool: createPool() });
    const key = uniqueKey();
    await using lock = await holder.acquire(key);
    const waits = Promise.allSettled([
      locker.acquire(key, { wait: true }),
      locker.acquire(key, { wait: "1m" }),
    ]);
    await markers();
    await locker.close();
    for (const wait of await waits) expect(wait).toMatchObject({ reason: expect.any(LockerClosedError) });
    await until(async () => (await sessions("listening")).length === 0);
    expect((await advisoryLocks()).map(({ id }) => id)).toEqual([lock.id]);
  });

  test("is told when its locker closes in the step in which it begins to wait", async () => {
    await using holder = new PostgresLocker({ pool: createPool() });
    const locker = new PostgresLocker({ pool: createPool() });
    const key = uniqueKey();
    await using _lock = await holder.acquire(key);
    const waiting = locker.acquire(key, { wait: true });
    const closing = locker.close();
    await expect(waiting).rejects.toBeInstanceOf(LockerClosedError);
    await closing;
  });

  test("gets a lock that a Go service holds, which tells nobody of its release", async () => {
    const go = await connect();
    await using locker = new PostgresLocker({ pool: createPool() });
    const key = uniqueKey();
    const id = lockId(0, key).toString();
    await go.query("select pg_advisory_lock($1)", [id]);
    const waiting = locker.acquire(key, { wait: true });
    await markers();
    await go.query("select pg_advisory_unlock($1)", [id]);
    await (await waiting).release();
  });
});

describe("a release", () => {
  test("tells those who wait, and nobody when nobody does", async () => {
    await using holder = new PostgresLocker({ pool: createPool() });
    await using locker = new PostgresLocker({ pool: createPool() });
    const heard: unknown[] = [];
    const ear = await connect();
    ear.on("notification", ({ payload }) => heard.push(payload));
    await ear.query("listen pg_locker");
    const [alone, wanted] = [await holder.acquire(uniqueKey()), await holder.acquire(uniqueKey())];
    const waiting = locker.acquire(wanted.key, { wait: true });
    await markers();
    await alone.release();
    await wanted.release();
    await until(() => heard.length > 0);
    expect(heard).toEqual([wanted.id.toString()]);
    await (await waiting).release();
  });
});

describe("a hundred that wait, in two lockers,", () => {
  const crowd = (lockers: PostgresLocker[], key: string, work: () => Promise<void> | void) =>
    Promise.all(
      Array.from({ length: 100 }, (_, i) =>
        (lockers[i % lockers.length] as PostgresLocker).withLock(key, work, { wait: true }),
      ),
    );

  test("are all served after their holder's session is ended, one at a time", async () => {
    await using holder = new PostgresLocker({ pool: createPool() });
    await using one = new PostgresLocker({ pool: createPool() });
    await using two = new PostgresLocker({ pool: createPool() });
    const lock = await holder.acquire(uniqueKey());
    let inside = 0;
    let served = 0;
    const all = crowd([one, two], lock.key, async () => {
      inside += 1;
      expect(inside).toBe(1);
      await Promise.resolve();
      inside -= 1;
      served += 1;
    });
    await markers(2);
    for (const pid of await holdersOf(lock.id)) await onServer("select pg_terminate_backend($1)", [pid]);
    await all;
    expect(served).toBe(100);
  });

  test("are all served after their holder's process is killed", async () => {
    const key = uniqueKey();
    await using child = Child.start("hold.mjs", { args: [key], env: { DATABASE_URL: databaseUrl() } });
    await child.message(({ pid }) => pid !== undefined);
    await using one = new PostgresLocker({ pool: createPool() });
    await using two = new PostgresLocker({ pool: createPool() });
    let served = 0;
    const all = crowd([one, two], key, () => {
      served += 1;
    });
    await markers(2);
    expect(served).toBe(0);
    child.signal("SIGKILL");
    await all;
    expect(served).toBe(100);
  });

  test("are all served after their listeners are ended, and new ones listen", async () => {
    await using holder = new PostgresLocker({ pool: createPool() });
    await using one = new PostgresLocker({ pool: createPool() });
    await using two = new PostgresLocker({ pool: createPool() });
    const lock = await holder.acquire(uniqueKey());
    const all = crowd([one, two], lock.key, () => {});
    await markers(2);
    const before = (await sessions("listening")).map(({ pid }) => pid);
    expect(before).toHaveLength(2);
    await onServer("select pg_terminate_backend(pid) from unnest($1::int[]) as pid", [before]);
    await until(async () => {
      const after = (await sessions("listening")).map(({ pid }) => pid);
      return after.length === 2 && after.every((pid) => !before.includes(pid));
    });
    await markers(2);
    await lock.release();
    await all;
  });

  test("pin no snapshot, and CREATE INDEX CONCURRENTLY finishes under them", async () => {
    await using holder = new PostgresLocker({ pool: createPool() });
    await using one = new PostgresLocker({ pool: createPool() });
    await using two = new PostgresLocker({ pool: createPool() });
    const client = await connect();
    await client.query("create table if not exists indexed (a int)");
    const lock = await holder.acquire(uniqueKey());
    const all = crowd([one, two], lock.key, () => {});
    await markers(2);
    await client.query("create index concurrently on indexed (a)");
    expect((await sessions()).filter(({ pinned }) => pinned)).toEqual([]);
    expect((await sessions()).length).toBeGreaterThanOrEqual(3);
    await lock.release();
    await all;
    await client.query("drop table indexed");
  });
});

describe("without a listener", () => {
  test("waiters poll: where no more connections are to be had", async () => {
    // A role of its own, whose connections are limited to the pools' two.
    await onServer("create role no_third_connection login password 'x' connection limit 2");
    try {
      const connectionString = urlWith({ user: "no_third_connection", password: "x" });
      const warnings: string[] = [];
      const logger = {
        debug() {},
        info() {},
        error() {},
        warn: (_: object, text: string) => warnings.push(text),
      };
      await using holder = new PostgresLocker({ pool: createPool({ connectionString, max: 1 }) });
      await using locker = new PostgresLocker({ pool: createPool({ connectionString, max: 1 }), logger });
      const lock = await holder.acquire(uniqueKey());
      const waiting = locker.acquire(lock.key, { wait: true });
      // A wait that fails has more to say than that nobody warned.
      await Promise.race([waiting, until(() => warnings.length > 0)]);
      expect(warnings[0]).toContain("waiters poll");
      await lock.release();
      await (await waiting).release();
    } finally {
      await until(async () => {
        const [row] = await onServer<{ count: string }>(
          "select count(*) from pg_stat_activity where usename = 'no_third_connection'",
        );
        await onServer(
          "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'no_third_connection'",
        );
        return row?.count === "0";
      });
      await onServer("drop role no_third_connection");
    }
  });

  test("waiters poll: where its connection stands still", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using holder = new PostgresLocker({ pool: createPool() });
    const pool = createPool({ connectionString: proxy.url });
    await using locker = new PostgresLocker({ pool });
    const lock = await holder.acquire(uniqueKey());
    const waiting = locker.acquire(lock.key, { wait: true });
    await markers();
    proxy.freeze({ direction: "toClient" });
    await lock.release();
    proxy.thaw();
    await (await waiting).release();
  });
});
