import type pg from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { type Lock, LockTableFullError, type PostgresLocker } from "../../src/index.ts";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { connect, createPool, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { acquireMany, sortedIds } from "../support/shared-locker.ts";
import { startServer } from "../support/start-server.ts";
import { until } from "../support/until.ts";

// A server whose lock table is full: locks without room are refused by name, and those that are held are kept.

let server: PostgresServer;

beforeAll(async () => {
  const settings = { max_locks_per_transaction: 10, max_connections: 10 };
  server = await startServer({ settings });
});

beforeEach(async () => {
  // A session ends a moment after its client.
  const admin = await connect({ connectionString: server.url });
  await until(async () => (await locksOn(admin)).length === 0);
});

afterAll(() => server[Symbol.asyncDispose]());

describe("a server without room for another lock", () => {
  test("refuses locks that it has no room for, by name, and keeps those that are held", async () => {
    const admin = await connect({ connectionString: server.url });
    const pool = createPool({ connectionString: server.url, max: 2 });
    await using locker = createLocker({ pool, sessions: "shared", maxLocksPerSession: 10_000 });
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
    expect(sortedIds(await locksOn(admin))).toEqual(sortedIds([...before, ...granted]));
    await Promise.all(before.map((lock) => lock.refresh()));
    expect(before.every((lock) => lock.held && !lock.signal.aborted)).toBe(true);
    expect(pool.totalCount).toBe(1);
    await Promise.all(granted.map((lock) => lock.release()));
    const next = await acquireMany(locker, 20);
    expect(sortedIds(await locksOn(admin))).toEqual(sortedIds([...before, ...next]));
  });

  test("refuses them even if only a few are asked for", async () => {
    const admin = await connect({ connectionString: server.url });
    await using locker = createLocker({
      pool: createPool({ connectionString: server.url, max: 2 }),
      sessions: "shared",
    });
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
    expect(sortedIds(await locksOn(admin))).toEqual(sortedIds(locks));
    await admin.query("select pg_advisory_unlock_all()");
    await Promise.all(locks.map((lock) => lock.release()));
    await acquireMany(locker, 20);
  });

  test("takes back every lock while there is no room", async () => {
    const admin = await connect({ connectionString: server.url });
    const pool = createPool({ connectionString: server.url, max: 2 });
    await using locker = createLocker({ pool, sessions: "shared" });
    const [alone, ...locks] = await acquireMany(locker, 20);
    const kept = locks.slice(10);
    await expect(fill(admin)).rejects.toMatchObject({ code: "53200" });
    await alone?.release();
    await Promise.all(locks.slice(0, 10).map((lock) => lock.release()));
    expect(sortedIds(await locksOn(admin))).toEqual(sortedIds(kept));
    expect(kept.every((lock) => lock.held && !lock.signal.aborted)).toBe(true);
    expect(pool.totalCount).toBe(1);
  });

  test("refuses a locker that has no session yet", async () => {
    const admin = await connect({ connectionString: server.url });
    const pool = createPool({ connectionString: server.url, max: 2 });
    await using locker = createLocker({ pool, sessions: "shared" });
    await expect(fill(admin)).rejects.toMatchObject({ code: "53200" });
    const asked = await Promise.allSettled([1, 2, 3].map(() => locker.acquire(uniqueKey())));
    for (const each of asked)
      expect((each as PromiseRejectedResult).reason).toBeInstanceOf(LockTableFullError);
    await admin.query("select pg_advisory_unlock_all()");
    await acquireMany(locker, 20);
  });

  test("keeps what each of two lockers holds while both ask for more than there is", async () => {
    const admin = await connect({ connectionString: server.url });
    const options = { maxLocksPerSession: 10_000 };
    await using one = createLocker({
      pool: createPool({ connectionString: server.url, max: 1 }),
      sessions: "shared",
      ...options,
    });
    await using two = createLocker({
      pool: createPool({ connectionString: server.url, max: 1 }),
      sessions: "shared",
      ...options,
    });
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
    expect(sortedIds(await locksOn(admin))).toEqual(sortedIds([...before, ...granted]));
    await Promise.all(before.map((lock) => lock.refresh()));
  });

  test('refuses with sessions: "dedicated" as well', async () => {
    const admin = await connect({ connectionString: server.url });
    await using locker = createLocker({
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

/** The locks of all sessions except the one that asks. */
async function locksOn(client: pg.Client): Promise<{ id: bigint }[]> {
  const { rows } = await client.query<{ id: string }>(
    `select ((classid::bigint << 32) | objid::bigint)::text as id from pg_locks
      where locktype = 'advisory' and pid <> pg_backend_pid()`,
  );
  return rows.map(({ id }) => ({ id: BigInt(id) }));
}

/** Takes locks until there is no room for another one. All locks before that stay. */
async function fill(client: pg.Client): Promise<void> {
  await client.query("select pg_advisory_lock(n) from generate_series(1, 100000) as n");
}
