import type pg from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";
import { InvalidTtlError, LockNotAcquiredError, type Logger } from "../../src/index.ts";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { connect, createPool, uniqueKey } from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { ImitatedPooler } from "../support/imitated-pooler.ts";
import { createLocker } from "../support/locker.ts";
import { costlyModes } from "../support/session-modes.ts";
import { startServer } from "../support/start-server.ts";
import { until } from "../support/until.ts";

// What a locker with a recovery grace grants, and when, on a server of this file's own. What that achieves is in recovery-overlap.test.ts.

let server: PostgresServer;
let superuser: pg.Client;

beforeAll(async () => {
  server = await startServer();
});

afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

beforeEach(async () => {
  superuser = await connect({ connectionString: server.url });
});

/** Milliseconds: longer than any test takes. */
const long = 60_000;

const poolOf = (options: pg.PoolConfig = {}): pg.Pool =>
  createPool({ connectionString: server.url, ...options });

/** Makes the lock table look as young as possible, without harm to any lock. */
async function makeYoung(): Promise<void> {
  const resetAt = "select pg_stat_get_bgwriter_stat_reset_time()::text as at";
  const before = (await superuser.query(resetAt)).rows[0].at;
  await superuser.query("select pg_stat_reset_shared('bgwriter')");
  // PostgreSQL 14 has a separate process for statistics, which takes a while.
  await until(async () => (await superuser.query(resetAt)).rows[0].at !== before);
}

async function waitUntilOlderThan(milliseconds: number, session: pg.Client = superuser): Promise<void> {
  const made = "greatest(pg_postmaster_start_time(), pg_stat_get_bgwriter_stat_reset_time())";
  const age = `extract(epoch from clock_timestamp() - ${made}) * 1000`;
  await until(
    async () => (await session.query(`select ${age} > ${milliseconds} as is_older`)).rows[0].is_older,
    { deadline: 20_000 },
  );
}

/** Returns the number of advisory locks. */
async function locks(): Promise<number> {
  const { rows } = await superuser.query(
    "select count(*)::int as count from pg_locks where locktype = 'advisory'",
  );
  return rows[0].count;
}

describe.each(costlyModes)("with %s sessions, on a young server", (sessions) => {
  test("an acquire is refused as recovering with the time left, and leaves nothing", async () => {
    await makeYoung();
    const pool = poolOf();
    await using locker = createLocker({ pool, sessions, recoveryGrace: long });
    const error = await locker.acquire("nightly").catch((error: unknown) => error);
    expect(error).toBeInstanceOf(LockNotAcquiredError);
    const { reason, graceLeft, message } = error as LockNotAcquiredError;
    expect(reason).toBe("recovering");
    expect(graceLeft).toBeGreaterThan(0);
    expect(graceLeft).toBeLessThanOrEqual(long * 1.01);
    expect(message).toMatch(
      /^Lock "nightly" not acquired: .*`recoveryGrace`.* for another (59\.\d+s|1m0\.\d+s)$/,
    );
    expect(await locks()).toBe(0);
    await until(() => pool.idleCount === 1 && pool.totalCount === 1);
  });

  test("tryAcquire throws as well: nobody else is at work", async () => {
    await makeYoung();
    await using locker = createLocker({ pool: poolOf(), sessions, recoveryGrace: long });
    await expect(locker.tryAcquire(uniqueKey())).rejects.toMatchObject({ reason: "recovering" });
  });

  test("a wait outlasts the grace, and gets the lock after it", async () => {
    const start = performance.now();
    await makeYoung();
    await using locker = createLocker({ pool: poolOf(), sessions, recoveryGrace: "1500ms" });
    await using lock = await locker.acquire(uniqueKey(), { wait: "20s" });
    expect(lock.held).toBe(true);
    expect(performance.now() - start).toBeGreaterThanOrEqual(1_500);
  });

  test("a wait whose bound passes within the grace ends in time, and says why", async () => {
    await makeYoung();
    await using locker = createLocker({ pool: poolOf(), sessions, recoveryGrace: long });
    await expect(locker.acquire(uniqueKey(), { wait: 100 })).rejects.toMatchObject({
      reason: "wait-timeout",
      cause: { reason: "recovering" },
    });
  });

  test("acquireAll takes no lock", async () => {
    await makeYoung();
    await using locker = createLocker({ pool: poolOf(), sessions, recoveryGrace: long });
    await expect(locker.acquireAll([uniqueKey(), uniqueKey()])).rejects.toMatchObject({
      reason: "recovering",
    });
    expect(await locks()).toBe(0);
  });

  test("somebody else who asks for the witness at the same moment proves nothing", async () => {
    await makeYoung();
    await superuser.query("begin");
    await superuser.query("select pg_try_advisory_xact_lock($1, $2)", [1_885_826_155, long]);
    await using locker = createLocker({ pool: poolOf(), sessions, recoveryGrace: long });
    await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ reason: "recovering" });
    await superuser.query("commit");
  });

  test("a holder is a witness for newcomers as long as it has a session", async () => {
    await waitUntilOlderThan(1_100);
    const grace = { sessions, recoveryGrace: "1s" } as const;
    await using holder = createLocker({ pool: poolOf(), ...grace });
    // Also on a connection that has been in the pool in the meantime.
    await (await holder.acquire(uniqueKey())).release();
    const lock = await holder.acquire(uniqueKey());
    await makeYoung();
    await using cold = createLocker({ pool: poolOf(), ...grace });
    await using other = await cold.acquire(uniqueKey());
    // What is known for one length of the grace isn't known for another.
    await using longer = createLocker({ pool: poolOf(), sessions, recoveryGrace: long });
    await expect(longer.acquire(uniqueKey())).rejects.toMatchObject({ reason: "recovering" });
    await other.release();
    await lock.release();
    await holder.close();
    await cold.close();
    expect(await locks()).toBe(0);
    await makeYoung();
    await using late = createLocker({ pool: poolOf(), ...grace });
    await expect(late.acquire(uniqueKey())).rejects.toMatchObject({ reason: "recovering" });
  });

  test("a connection is asked once, however many locks it carries", async () => {
    await waitUntilOlderThan(500);
    const asked: string[] = [];
    // With a single connection, the locks are beside the pool.
    const pool = poolOf({ max: 2 });
    let connections = 0;
    pool.on("connect", (client) => {
      connections += 1;
      const query = client.query.bind(client) as (...args: unknown[]) => unknown;
      client.query = ((...args: unknown[]) => {
        asked.push((args[0] as { text: string }).text);
        return query(...args);
      }) as typeof client.query;
    });
    await using locker = createLocker({ pool, sessions, recoveryGrace: 400 });
    for (let i = 0; i < 5; i++) await (await locker.acquire(uniqueKey())).release();
    expect(asked.filter((text) => text.includes("is_contradicted"))).toHaveLength(connections);
    expect(connections).toBeLessThanOrEqual(2);
  });
});

describe("a session on which callers wait in the server", () => {
  test("is asked as well, and is not waited on while the server is young", async () => {
    await waitUntilOlderThan(1_100);
    const key = uniqueKey();
    await using holder = createLocker({ pool: poolOf() });
    const held = await holder.acquire(key);
    const faults: unknown[] = [];
    const logger = { debug() {}, info() {}, error() {}, warn: (facts: object) => faults.push(facts) };
    // A connection of the pool that was asked in time, and is no longer a witness.
    const grace = { sessions: "dedicated", recoveryGrace: "1s" } as const;
    const pool = poolOf({ max: 1 });
    await using knowing = createLocker({ pool, ...grace, logger: logger as unknown as Logger });
    await (await knowing.acquire(uniqueKey())).release();
    await makeYoung();
    const waiting = knowing.acquire(key, { wait: "20s" });
    await until(() => faults.length > 0);
    expect(faults).toEqual([
      expect.objectContaining({ err: expect.objectContaining({ reason: "recovering" }) }),
    ]);
    await held.release();
    await using lock = await waiting;
    expect(lock.held).toBe(true);
  });

  test("is waited on when the grace has passed", async () => {
    await waitUntilOlderThan(500);
    const key = uniqueKey();
    await using holder = createLocker({ pool: poolOf() });
    await using locker = createLocker({ pool: poolOf(), recoveryGrace: 400 });
    const held = await holder.acquire(key);
    const waiting = locker.acquire(key, { wait: "20s" });
    await until(async () => {
      const { rows } = await superuser.query(
        "select from pg_locks where locktype = 'advisory' and not granted",
      );
      return rows.length === 1;
    });
    await held.release();
    await using lock = await waiting;
    expect(lock.held).toBe(true);
  });
});

describe("withTransaction", () => {
  test.each(["the locker's own transaction", "the caller's"])("keeps the grace, in %s", async (whose) => {
    await makeYoung();
    await using locker = createLocker({ pool: poolOf(), recoveryGrace: long });
    const client = whose === "the caller's" ? await connect({ connectionString: server.url }) : undefined;
    await client?.query("begin");
    const options = client === undefined ? {} : { client };
    const running = locker.withTransaction(uniqueKey(), () => "ran", options);
    await expect(running).rejects.toMatchObject({ reason: "recovering" });
    expect(await locks()).toBe(0);
    // The caller's transaction is as it was before.
    expect((await client?.query("select 1 as one"))?.rows ?? [{ one: 1 }]).toEqual([{ one: 1 }]);
    await client?.query("commit");
  });

  test("runs on an old server, even with a short grace, and leaves no witness", async () => {
    await waitUntilOlderThan(500);
    await using locker = createLocker({ pool: poolOf(), recoveryGrace: 400 });
    const inside = await locker.withTransaction(uniqueKey(), () => locks());
    expect(inside).toBe(2);
    expect(await locks()).toBe(0);
  });

  test("is checked each time behind a pooler in transaction mode", async () => {
    await waitUntilOlderThan(500);
    await using pooler = await ImitatedPooler.start(server.url, "transaction");
    const pool = poolOf({ connectionString: pooler.url, max: 1 });
    await using locker = createLocker({ pool, recoveryGrace: 400 });
    expect(await locker.withTransaction(uniqueKey(), () => "ran")).toBe("ran");
    await makeYoung();
    await using cold = createLocker({ pool, recoveryGrace: long });
    await expect(cold.withTransaction(uniqueKey(), () => "ran")).rejects.toMatchObject({
      reason: "recovering",
    });
    await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ code: "POOLER_DETECTED" });
    expect(await locks()).toBe(0);
  });
});

describe("contradictory evidence", () => {
  test.skipIf(isOverPostgresJs)("is another server that claims to be old: it counts as young", async () => {
    await using other = await startServer();
    // Each lock gets a new connection, to whichever server the name leads to.
    const pool = poolOf({ maxUses: 1 });
    await using locker = createLocker({ pool, sessions: "dedicated", recoveryGrace: "2s" });
    const onOther = await connect({ connectionString: other.url });
    await waitUntilOlderThan(2_500, onOther);
    await onOther.end();
    await waitUntilOlderThan(2_500);
    await (await locker.acquire(uniqueKey())).release();
    const options = pool.options as pg.PoolConfig & { connectionString?: string };
    options.connectionString = other.url;
    const refused = await locker.acquire(uniqueKey()).catch((error: unknown) => error);
    expect(refused).toMatchObject({ reason: "recovering" });
    expect((refused as LockNotAcquiredError).graceLeft).toBeGreaterThan(1_000);
    const start = performance.now();
    await (await locker.acquire(uniqueKey(), { wait: "20s" })).release();
    expect(performance.now() - start).toBeGreaterThan(1_000);
    // And back: nobody may be granted anything on two servers in turn.
    options.connectionString = server.url;
    await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ reason: "recovering" });
  });
});

describe("a TTL", () => {
  test("above the grace is refused in acquire and in refresh, and says so", async () => {
    await waitUntilOlderThan(1_100);
    await using locker = createLocker({ pool: poolOf(), recoveryGrace: "1s" });
    const refused = await locker.acquire(uniqueKey(), { ttl: "2s" }).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(InvalidTtlError);
    expect((refused as Error).message).toMatch(
      /^Expected `ttl` to be at most the `recoveryGrace` of its locker, which is 1s: .*, got `"2s"` \(string\)$/,
    );
    await using lock = await locker.acquire(uniqueKey(), { ttl: "1s" });
    await expect(lock.refresh(1_001)).rejects.toBeInstanceOf(InvalidTtlError);
    expect(lock.held).toBe(true);
  });

  test("is the grace by default, if that is below the usual default", async () => {
    await waitUntilOlderThan(500);
    await using locker = createLocker({ pool: poolOf(), recoveryGrace: 400 });
    await using lock = await locker.acquire(uniqueKey());
    expect(lock.ttl).toBe(400);
  });

  test("that the server enforces keeps its own bounds", async () => {
    await using locker = createLocker({ pool: poolOf(), ttlEnforcement: "server", recoveryGrace: long });
    await expect(locker.acquire(uniqueKey(), { ttl: 0.1 })).rejects.toThrow("which the server can enforce");
    await expect(locker.acquire(uniqueKey(), { ttl: long + 1 })).rejects.toThrow("recoveryGrace");
  });
});

describe("a server that was promoted, and not restarted since", () => {
  test("looks as old as its last checkpoint, except to lockers that knew it before", async () => {
    await using promoted = await server.standby();
    await promoted.promote();
    const pool = poolOf({ connectionString: promoted.url, maxUses: 1 });
    const grace = { sessions: "dedicated", recoveryGrace: "1s" } as const;
    await using locker = createLocker({ pool, ...grace });
    await (await locker.acquire(uniqueKey(), { wait: "20s" })).release();
    const onPromoted = await connect({ connectionString: promoted.url });
    await onPromoted.query("checkpoint");
    await using cold = createLocker({ pool, ...grace });
    await expect(cold.acquire(uniqueKey())).rejects.toMatchObject({ reason: "recovering" });
    await (await locker.acquire(uniqueKey())).release();
    await onPromoted.end();
  });
});
