import { getEventListeners } from "node:events";
import { describe, expect, test } from "vitest";
import { LockerClosedError, lockId, type PostgresLocker } from "../../src/index.ts";
import { Child } from "../support/child.ts";
import {
  advisoryLocks,
  connect,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
} from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

const database = new URL(databaseUrl()).pathname.slice(1);

/** The sessions of lockers in this file's database. */
async function lockerSessions() {
  return await onServer<{ pid: number; application_name: string; age: number }>(
    `select pid, application_name, coalesce(extract(epoch from clock_timestamp() - xact_start), 0)::float8 as age
       from pg_stat_activity
      where datname = $1 and application_name like 'pg-locker %'`,
    [database],
  );
}

/** Resolves when that many sessions wait in the server. */
async function waiters(count = 1): Promise<void> {
  await until(async () => (await advisoryLocks()).filter(({ granted }) => !granted).length === count);
}

describe.each(sessionModes)("with %s sessions", (sessions) => {
  describe("a caller that waits", () => {
    test("keeps no connection of the pool: a pool of one serves others", async () => {
      await using holder = createLocker({ sessions });
      const pool = createPool({ max: 1 });
      await using locker = createLocker({ sessions, pool });
      const key = uniqueKey();
      const lock = await holder.acquire(key);
      const waiting = locker.acquire(key, { wait: true });
      await waiters();
      for (let i = 0; i < 3; i += 1) await (await locker.acquire(uniqueKey())).release();
      await until(() => pool.idleCount === pool.totalCount);
      await lock.release();
      await (await waiting).release();
    });

    test("is one of many in its process, of which one goes to the database", async () => {
      await using holder = createLocker({ sessions });
      const pool = createPool({ max: 3 });
      await using locker = createLocker({ sessions, pool });
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
      await waiters();
      expect(pool.totalCount).toBe(1);
      expect((await advisoryLocks()).map(({ granted }) => granted).sort()).toEqual([false, true]);
      await lock.release();
      await Promise.all(crowd);
      expect(served).toBe(100);
      expect(pool.totalCount).toBe(1);
    });

    test("and is aborted leaves nothing behind, at whatever point: a storm of 2,000", async () => {
      const holder = createLocker({ sessions });
      const pool = createPool({ max: 5 });
      const key = uniqueKey();
      let stop = false;
      const handing = (async () => {
        while (!stop)
          await holder.withLock(key, () => new Promise((resolve) => setTimeout(resolve, 1)), { wait: true });
      })();
      {
        await using locker = createLocker({ sessions, pool });
        const reason = new Error("the caller's own");
        const counts = { granted: 0, aborted: 0 };
        const caller = async (): Promise<void> => {
          for (let i = 0; i < 50; i += 1) {
            const aborting = new AbortController();
            const { signal } = aborting;
            // Some have as much time as they need, because otherwise nobody might be granted it on a busy machine.
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
      await until(async () => (await lockerSessions()).length === 0);
    });

    test("is told when its locker closes, and nothing is left", async () => {
      await using holder = createLocker({ sessions });
      const locker = createLocker({ sessions });
      const key = uniqueKey();
      await using lock = await holder.acquire(key);
      const waits = Promise.allSettled([
        locker.acquire(key, { wait: true }),
        locker.acquire(key, { wait: "1m" }),
      ]);
      await waiters();
      await locker.close();
      for (const wait of await waits) expect(wait).toMatchObject({ reason: expect.any(LockerClosedError) });
      expect((await advisoryLocks()).map(({ id }) => id)).toEqual([lock.id]);
    });

    test("is told when its locker closes in the step in which it begins to wait", async () => {
      await using holder = createLocker({ sessions });
      const locker = createLocker({ sessions });
      const key = uniqueKey();
      await using _lock = await holder.acquire(key);
      const waiting = locker.acquire(key, { wait: true });
      const closing = locker.close();
      await expect(waiting).rejects.toBeInstanceOf(LockerClosedError);
      await closing;
    });

    test("gets a lock that a Go service holds", async () => {
      const go = await connect();
      await using locker = createLocker({ sessions });
      const key = uniqueKey();
      const id = lockId(0, key).toString();
      await go.query("select pg_advisory_lock($1)", [id]);
      const waiting = locker.acquire(key, { wait: true });
      await waiters();
      await go.query("select pg_advisory_unlock($1)", [id]);
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
      await using holder = createLocker({ sessions });
      await using one = createLocker({ sessions });
      await using two = createLocker({ sessions });
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
      await waiters(2);
      for (const pid of await holdersOf(lock.id)) await onServer("select pg_terminate_backend($1)", [pid]);
      await all;
      expect(served).toBe(100);
    });

    test("are all served after their holder's process is killed", async () => {
      const key = uniqueKey();
      await using child = Child.start("hold.mjs", {
        args: [key],
        env: { DATABASE_URL: databaseUrl(), SESSIONS: sessions },
      });
      await child.message(({ pid }) => pid !== undefined);
      await using one = createLocker({ sessions });
      await using two = createLocker({ sessions });
      let served = 0;
      const all = crowd([one, two], key, () => {
        served += 1;
      });
      await waiters(2);
      expect(served).toBe(0);
      child.signal("SIGKILL");
      await all;
      expect(served).toBe(100);
    });

    test.skipIf(isOverPostgresJs)("hold up CREATE INDEX CONCURRENTLY for a few seconds at most", async () => {
      await using holder = createLocker({ sessions });
      await using one = createLocker({ sessions });
      await using two = createLocker({ sessions });
      const client = await connect();
      await client.query("create table if not exists indexed (a int)");
      const lock = await holder.acquire(uniqueKey());
      const all = crowd([one, two], lock.key, () => {});
      await waiters(2);
      // It waits for every statement that was running when it came, and for none that came later.
      await client.query("create index concurrently on indexed (a)");
      expect(Math.max(...(await lockerSessions()).map(({ age }) => age))).toBeLessThan(6);
      await waiters(2);
      await lock.release();
      await all;
      await client.query("drop table indexed");
    });
  });
});
