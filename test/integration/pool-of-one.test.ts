import { describe, expect, test } from "vitest";
import {
  advisoryLocks,
  createOpenPool,
  createPool,
  onServer,
  uniqueKey,
  urlWith,
} from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

// A pool of one connection, or one that is full: the code under a lock has the pool to itself.

const application = { application_name: `application ${uniqueKey()}` };

describe("a pool of one", () => {
  test.each(["client", "server"] as const)(
    "code under a lock gets its connection (TTLs of the %s)",
    async (ttlEnforcement) => {
      const pool = createPool({ max: 1 });
      await using locker = createLocker({ pool, ttlEnforcement });
      const seven = await locker.withLock(
        uniqueKey(),
        async () => (await pool.query("select 7 as seven")).rows,
      );
      expect(seven).toEqual([{ seven: 7 }]);
    },
  );

  test("can hold several locks, waited for, fenced, shared and nested", async () => {
    const pool = createPool({ max: 1 });
    await using locker = createLocker({ pool });
    const key = uniqueKey();
    const query = () => pool.query("select 1");
    await locker.withLock(uniqueKey(), () =>
      locker.withLock(uniqueKey(), query, { fencing: true, mode: "shared" }),
    );
    const order: number[] = [];
    await Promise.all(
      Array.from({ length: 5 }, (_, at) =>
        locker.withLock(
          key,
          async () => {
            await query();
            order.push(at);
          },
          { wait: "20s" },
        ),
      ),
    );
    expect(order).toEqual([0, 1, 2, 3, 4]);
    const group = await locker.acquireAll(Array.from({ length: 20 }, () => uniqueKey()));
    await query();
    await group.release();
  });

  test("grants a lock while the application has the connection; transactions take turns", async () => {
    const pool = createPool({ max: 1 });
    await using locker = createLocker({ pool });
    const client = await pool.connect();
    const lock = await locker.acquire(uniqueKey());
    expect(lock.held).toBe(true);
    client.release();
    await locker.withTransaction(uniqueKey(), async (own) => await own.query("select 1"));
    await lock.release();
  });

  test("extra connections end when nothing is held, and with close() at the latest", async () => {
    const pool = createPool({ max: 1, ...application });
    const locker = createLocker({ pool });
    const beside = async (): Promise<number> =>
      (
        await onServer(
          "select from pg_stat_activity where datname = $1 and application_name like 'pg-locker%'",
          [new URL(urlWith({})).pathname.slice(1)],
        )
      ).length;
    const lock = await locker.acquire(uniqueKey(), { fencing: true });
    expect(await beside()).toBeGreaterThan(0);
    await lock.release();
    await until(async () => (await beside()) === 0, { deadline: 5_000 });
    await locker.acquire(uniqueKey());
    await locker.close();
    await until(async () => (await beside()) === 0, { deadline: 2_000 });
    expect(await advisoryLocks()).toEqual([]);
  });

  test("after the server ended its session the lock is lost, and the next is granted", async () => {
    const pool = createPool({ max: 1 });
    await using locker = createLocker({ pool });
    const lock = await locker.acquire(uniqueKey());
    const [{ pid } = { pid: 0 }] = await advisoryLocks();
    await onServer("select pg_terminate_backend($1)", [pid]);
    await until(() => lock.signal.aborted);
    await (await locker.acquire(lock.key, { wait: "5s" })).release();
  });
});

describe("an empty session gives way to callers that queue in the pool", () => {
  test.each([1, 2, 3])("a query after a lock takes no longer, with a maximum of %i", async (max) => {
    const pool = await createOpenPool({ max });
    await using locker = createLocker({ pool });
    const busy = await Promise.all(Array.from({ length: max - 1 }, () => pool.connect()));
    await locker.ping();
    const took: number[] = [];
    for (let round = 0; round < 7; round += 1) {
      await locker.withLock(uniqueKey(), () => {});
      const start = performance.now();
      await pool.query("select 1");
      took.push(performance.now() - start);
    }
    for (const client of busy) client.release();
    // Without giving way, each took half a second.
    expect(took.sort((a, b) => a - b)[3]).toBeLessThan(250);
  });

  test("a transaction after a lock takes no longer", async () => {
    const pool = await createOpenPool({ max: 2 });
    await using locker = createLocker({ pool });
    const busy = await pool.connect();
    const took: number[] = [];
    for (let round = 0; round < 5; round += 1) {
      await locker.withLock(uniqueKey(), () => {});
      const start = performance.now();
      await locker.withTransaction(uniqueKey(), () => {});
      took.push(performance.now() - start);
    }
    busy.release();
    expect(took.sort((a, b) => a - b)[2]).toBeLessThan(250);
  });
});
