import type pg from "pg";
import { describe, expect, test } from "vitest";
import {
  DatabaseError,
  type Lock,
  LockNotHeldError,
  PoolerDetectedError,
  type PostgresLocker,
} from "../../src/index.ts";
import {
  advisoryLocks,
  connect,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
} from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { startServer } from "../support/start-server.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// Sentences of the contract that, as the seeded defects showed, no other test checks, or only if the locker's default is one kind of
// session: see scripts/mutants.mjs.

test.each([
  ["released", (lock: Lock) => lock.release()],
  ["closed", (_: Lock, locker: PostgresLocker) => locker.close()],
])("a refresh answered after the lock was %s says so, and revives nothing", async (reason, end) => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await using locker = createLocker({ pool: createPool({ connectionString: proxy.url }) });
  const lock = await locker.acquire(uniqueKey(), { ttl: "1m" });
  const before = await statementOfHolder(lock);
  proxy.freeze({ direction: "toClient" });
  const refreshed = lock.refresh("1h").catch((error: unknown) => error);
  await until(async () => (await statementOfHolder(lock)) !== before);
  const ended = end(lock, locker);
  await until(() => !lock.held);
  proxy.thaw();
  expect(await refreshed).toBeInstanceOf(LockNotHeldError);
  expect(await refreshed).toMatchObject({ reason });
  await ended;
  expect([lock.held, lock.ttl]).toEqual([false, 60_000]);
  expect(() => lock.assertHeld()).toThrow(LockNotHeldError);
  expect(await holdersOf(lock.id)).toEqual([]);
});

describe("with a session for each lock", () => {
  const sessions = "dedicated";

  test("a release of a lock that is gone says so, and destroys the session", async () => {
    const pool = createPool();
    const clients: pg.PoolClient[] = [];
    pool.on("acquire", (client) => clients.push(client));
    await using locker = createLocker({ pool, sessions });
    const lock = await locker.acquire(uniqueKey());
    await clients.at(-1)?.query("select pg_advisory_unlock_all()");
    await expect(lock.release()).rejects.toMatchObject({ reason: "lost", cause: expect.any(DatabaseError) });
    expect(pool.totalCount).toBe(0);
  });

  test("a lock that was granted by a statement which then failed goes with its session", async () => {
    const pool = createPool();
    await using locker = createLocker({ pool, sessions });
    const key = uniqueKey();
    const admin = await connect();
    // In this file's own database, and inlined by the planner: it fails when a token is drawn, which is after the grant.
    await admin.query(`create or replace function pg_catalog.pg_walfile_name(pg_lsn) returns text
                       language sql as $$ select ($1::text || ' is no number')::int::text $$`);
    try {
      const failed = await locker.acquire(key, { fencing: true }).catch((error: unknown) => error);
      expect(failed).toBeInstanceOf(DatabaseError);
      expect(failed).toMatchObject({ sqlState: "22P02", message: expect.stringContaining("is no number") });
      expect(pool.totalCount).toBe(0);
      await until(async () => (await advisoryLocks()).length === 0);
    } finally {
      await admin.query(`create or replace function pg_catalog.pg_walfile_name(pg_lsn) returns text
                         language internal stable strict parallel safe as 'pg_walfile_name'`);
    }
    const lock = await locker.acquire(key, { fencing: true });
    expect(await holdersOf(lock.id)).toHaveLength(1);
    await lock.release();
  });

  test("a session served by another backend than announced is refused, nothing locked", async () => {
    const pool = createPool();
    pool.on("connect", (client) => {
      const announced = client as unknown as { processID: number };
      announced.processID += 1_000_000;
    });
    await using locker = createLocker({ pool, sessions });
    await expect(locker.acquire(uniqueKey())).rejects.toBeInstanceOf(PoolerDetectedError);
    expect(pool.totalCount).toBe(0);
    await until(async () => (await advisoryLocks()).length === 0);
  });

  test("a pool's client in a transaction is refused, and nothing is held", async () => {
    const pool = createPool({ max: 1 });
    await pool.query("begin");
    await using locker = createLocker({ pool, sessions, ttlEnforcement: "server" });
    await expect(locker.acquire(uniqueKey())).rejects.toThrow("the pool's client was in a transaction");
    expect(pool.totalCount).toBe(0);
    await until(async () => (await advisoryLocks()).length === 0);
  });

  test("a pool's client in a transaction is never asked for a lock that might stay", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url, max: 1 });
    await using locker = createLocker({ pool, sessions, ttlEnforcement: "server" });
    await (await locker.acquire(uniqueKey())).release();
    await until(() => pool.idleCount === 1);
    await pool.query("begin");
    // The answer never comes.
    proxy.freeze({ direction: "toClient" });
    await expect(locker.acquire(uniqueKey(), { ttl: "2s" })).rejects.toThrow("was in a transaction");
    expect(await advisoryLocks()).toEqual([]);
  });
});

test.each(["dedicated", "shared"] as const)(
  "with %s sessions a token is larger after a crash, if commits wait for no disk",
  async (sessions) => {
    const settings = { wal_writer_delay: "10s", autovacuum: "off", synchronous_commit: "off" };
    await using server = await startServer({ settings });
    await using locker = createLocker({ pool: createPool({ connectionString: server.url }), sessions });
    const key = uniqueKey();
    for (let round = 0; round < 3; round += 1) {
      const { fencingToken = 0n, signal } = await locker.acquire(key, { fencing: true });
      await server.stop({ mode: "immediate" });
      await until(() => signal.aborted);
      await server.resume();
      const after = await locker.acquire(key, { fencing: true });
      expect(after.fencingToken).toBeGreaterThan(fencingToken);
      await after.release();
    }
  },
);

/** Returns the last statement on a holder's session. */
async function statementOfHolder(lock: Lock): Promise<string | undefined> {
  const pids = await holdersOf(lock.id);
  const sql = "select query from pg_stat_activity where pid = any($1)";
  return (await onServer<{ query: string }>(sql, [pids]))[0]?.query;
}
