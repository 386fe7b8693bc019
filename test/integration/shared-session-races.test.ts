import type pg from "pg";
import { afterEach, describe, expect, test, vi } from "vitest";
import { DatabaseError, type Lock, LockLostError, LockNotHeldError } from "../../src/index.ts";
import { closeShared } from "../../src/postgres/sql-shared.ts";
import { StatementBatches } from "../../src/sessions/statement-batches.ts";
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
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// One operation in the middle of another on a session with many locks: whatever happens to one lock, twice or late, happens to no other.

afterEach(() => {
  vi.restoreAllMocks();
});

describe("a lock that is released while a refresh of it has no answer", () => {
  test("is given back once: the session and its other locks stay", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ sessions: "shared", pool });
    const lock = await locker.acquire(uniqueKey(), { ttl: 400 });
    const neighbour = await locker.acquire(uniqueKey(), { ttl: "1m" });
    proxy.freeze();
    const refreshed = lock.refresh().catch((error: unknown) => error);
    await new Promise(setImmediate); // Let it be sent.
    const released = lock.release();
    expect(await refreshed).toBeInstanceOf(LockNotHeldError);
    proxy.thaw();
    await released;
    await neighbour.refresh();
    expect([neighbour.held, neighbour.signal.aborted]).toEqual([true, false]);
    expect((await advisoryLocks()).map(({ id }) => id)).toEqual([neighbour.id]);
  });

  test("and is one of several shared ones leaves it to the others", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ sessions: "shared", pool });
    await using other = createLocker();
    const key = uniqueKey();
    const lock = await locker.acquire(key, { mode: "shared", ttl: 400 });
    const neighbour = await locker.acquire(key, { mode: "shared", ttl: "1m" });
    proxy.freeze();
    const refreshed = lock.refresh().catch((error: unknown) => error);
    await new Promise(setImmediate); // Let it be sent.
    await lock.release();
    expect(await refreshed).toBeInstanceOf(LockNotHeldError);
    proxy.thaw();
    await neighbour.refresh();
    expect(neighbour.held).toBe(true);
    expect(await holdersOf(lock.id)).toHaveLength(1);
    expect(await other.tryAcquire(key)).toBeUndefined();
    await neighbour.release();
    await (await other.acquire(key)).release();
  });
});

test("a refresh in a batch that fails is still a proof, and not after DISCARD ALL", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  const pool = createPool({ connectionString: proxy.url });
  const clients: pg.PoolClient[] = [];
  pool.on("connect", (client) => clients.push(client));
  await using locker = createLocker({ sessions: "shared", pool });
  const lock = await locker.acquire(uniqueKey());
  const { signal } = lock;
  const admin = await connect();
  await failTries(admin);
  try {
    proxy.freeze();
    const first = lock.refresh();
    await new Promise(setImmediate); // Let it be sent.
    const discarded = clients[0]?.query("discard all");
    const refreshed = lock.refresh().catch((error: unknown) => error);
    const acquired = locker.acquire(uniqueKey()).catch((error: unknown) => error);
    await new Promise(setImmediate);
    proxy.thaw();
    await first;
    await discarded;
    expect(await acquired).toBeInstanceOf(DatabaseError);
    expect(await refreshed).toBeInstanceOf(LockNotHeldError);
    expect([lock.held, signal.reason instanceof LockLostError]).toEqual([false, true]);
    expect(pool.totalCount).toBe(0);
  } finally {
    await mendTries(admin);
  }
});

test("one more shared holder gets its token, whatever else fails in the batch", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  const pool = createPool({ connectionString: proxy.url });
  await using locker = createLocker({ sessions: "shared", pool });
  const key = uniqueKey();
  const lock = await locker.acquire(key, { mode: "shared" });
  const admin = await connect();
  await failTries(admin);
  try {
    proxy.freeze();
    const first = lock.refresh();
    await new Promise(setImmediate); // Let it be sent.
    const joined = locker.acquire(key, { mode: "shared", fencing: true }).catch((error: unknown) => error);
    const acquired = locker.acquire(uniqueKey()).catch((error: unknown) => error);
    await new Promise(setImmediate);
    proxy.thaw();
    await first;
    expect(await acquired).toBeInstanceOf(DatabaseError);
    expect(await joined).toMatchObject({ held: true, fencingToken: expect.any(BigInt) });
    await ((await joined) as Lock).release();
    expect([lock.held, lock.signal.aborted]).toEqual([true, false]);
    expect(await holdersOf(lock.id)).toHaveLength(1);
  } finally {
    await mendTries(admin);
  }
  await using next = await locker.acquire(key, { mode: "shared", fencing: true });
  expect(next.fencingToken).toBeTypeOf("bigint");
  await lock.release();
});

describe("what has ended stays ended, whichever other lock proves the session", () => {
  test("a lock whose TTL has passed", async () => {
    await using locker = createLocker({ sessions: "shared" });
    const lock = await locker.acquire(uniqueKey(), { ttl: "1h", autoRefresh: true });
    const neighbour = await locker.acquire(uniqueKey(), { ttl: "10h" });
    const { signal } = lock;
    jumpBy(2 * 3_600_000);
    expect([lock.held, lock.expired, signal.aborted]).toEqual([false, true, false]);
    await neighbour.refresh();
    expect([lock.held, lock.expired, signal.aborted]).toEqual([false, true, true]);
    expect(neighbour.held).toBe(true);
    await neighbour.release();
  });

  test("all locks of a session whose smallest TTL has passed", async () => {
    await using locker = createLocker({ sessions: "shared", ttlEnforcement: "server" });
    const short = await locker.acquire(uniqueKey(), { ttl: "30m" });
    const long = await locker.acquire(uniqueKey(), { ttl: "1h" });
    const { signal } = long;
    jumpBy(0.75 * 3_600_000);
    expect(long.held).toBe(false);
    // It is sent on the session, which is still sound in the server, and is answered.
    await short.release().catch(() => {});
    expect(long.held).toBe(false);
    await until(() => signal.aborted);
    await until(async () => (await advisoryLocks()).length === 0);
  });
});

describe("the time-out after which the server ends a session with locks", () => {
  test("is the smallest TTL as soon as that joins the others", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ sessions: "shared", pool, ttlEnforcement: "server" });
    await using other = createLocker({ ttlEnforcement: "server" });
    const long = await locker.acquire(uniqueKey(), { ttl: 1_000, autoRefresh: true });
    await using _short = await locker.acquire(uniqueKey(), { ttl: 700, autoRefresh: true });
    const { signal } = long;
    proxy.freeze();
    await using _next = await until(() => other.tryAcquire(long.key), { interval: 1 });
    expect(long.held).toBe(false);
    await until(() => signal.aborted);
  });

  test("is that of the others again if the one with the smallest was refused", async () => {
    const options = { ttlEnforcement: "server" } as const;
    await using locker = createLocker({ sessions: "shared", ...options });
    await using other = createLocker({ sessions: "dedicated", ...options });
    const long = await locker.acquire(uniqueKey(), { ttl: "30s" });
    const theirs = await other.acquire(uniqueKey(), { ttl: 900 });
    expect(await locker.tryAcquire(theirs.key, { ttl: 300 })).toBeUndefined();
    await until(() => !theirs.held);
    expect([long.held, long.signal.aborted]).toEqual([true, false]);
    expect(await holdersOf(long.id)).toHaveLength(1);
    await long.refresh();
    await long.release();
  });
});

test("a session that ended during a release is kept alive no more", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  const pool = createPool({ connectionString: proxy.url });
  await using locker = createLocker({ sessions: "shared", pool });
  const options = { ttl: 600, autoRefresh: true };
  const released = await locker.acquire(uniqueKey(), options);
  const { signal } = await locker.acquire(uniqueKey(), options);
  const pids = await holdersOf(released.id);
  proxy.freeze({ direction: "toServer" });
  const outcome = released.release().catch((error: unknown) => error);
  await onServer("select pg_terminate_backend($1)", pids);
  expect(await outcome).toMatchObject({ reason: "lost" });
  await until(() => signal.aborted);
  const asked = vi.spyOn(StatementBatches.prototype, "ask");
  // Longer than a third of the TTL, after which a keepalive would be sent.
  await using another = createLocker({ sessions: "dedicated" });
  const witness = await another.acquire(uniqueKey(), { ttl: 700 });
  await until(() => !witness.held);
  expect(asked).not.toHaveBeenCalled();
});

test("close waits for a session that is on its way back to the pool already", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  const pool = createPool({ connectionString: proxy.url });
  const statements: string[] = [];
  pool.on("connect", (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => unknown;
    (client as { query: unknown }).query = (...args: unknown[]) => {
      statements.push((args[0] as { text: string }).text);
      return query(...args);
    };
  });
  const locker = createLocker({ sessions: "shared", pool });
  await (await locker.acquire(uniqueKey())).release();
  proxy.freeze({ direction: "toClient" });
  await until(() => statements.includes(closeShared.text));
  let isClosed = false;
  const closed = locker.close().then(() => {
    isClosed = true;
  });
  await new Promise(setImmediate);
  expect([isClosed, pool.idleCount]).toEqual([false, 0]);
  proxy.thaw();
  await closed;
  // Over postgres.js, the locker's pool is its own, and so ends with it.
  const left = isOverPostgresJs ? 0 : 1;
  expect([pool.totalCount, pool.idleCount]).toEqual([left, left]);
});

/** In this file's own database, inlined by the planner: the try for an exclusive lock fails its whole statement. */
async function failTries(admin: pg.Client): Promise<void> {
  await admin.query(`create or replace function pg_catalog.pg_try_advisory_lock(bigint) returns boolean
                     language sql as $$ select ($1::text || ' is no number')::int > 0 $$`);
}

async function mendTries(admin: pg.Client): Promise<void> {
  await admin.query(`create or replace function pg_catalog.pg_try_advisory_lock(bigint) returns boolean
                     language internal volatile strict parallel restricted as 'pg_try_advisory_lock_int8'`);
}

function jumpBy(milliseconds: number): void {
  const { now } = Date;
  vi.spyOn(Date, "now").mockImplementation(() => now() + milliseconds);
}
