import type pg from "pg";
import { describe, expect, test } from "vitest";
import { DatabaseError, LockNotAcquiredError } from "../../src/index.ts";
import { connWaitMilliseconds } from "../../src/option-rules.ts";
import {
  advisoryLocks,
  createOpenPool,
  createPool,
  createRole,
  databaseUrl,
  onServer,
  uniqueKey,
  urlWith,
} from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { createLocker } from "../support/locker.ts";
import { clientsOf } from "../support/observed-pool.ts";
import { sessionModes } from "../support/session-modes.ts";
import { silentServer } from "../support/silent-server.ts";
import { startServer } from "../support/start-server.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// A lock needs a session of the pool: how long it is waited for, which error there is without one, and in which state it goes back.

describe.each(sessionModes)("with %s sessions", (sessions) => {
  describe("a pool of few connections", () => {
    test.skipIf(isOverPostgresJs)(
      "gets a connection back untouched that comes after its caller gave up",
      async () => {
        const pool = createPool({ max: 2 });
        await using locker = createLocker({ sessions, pool, connWaitTimeout: "50ms" });
        const [client, other] = [await pool.connect(), await pool.connect()];
        await client.query("select 1");
        await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ reason: "pool-saturated" });
        client.release();
        await until(() => pool.idleCount === 1 && pool.waitingCount === 0);
        other.release();
        expect((await activity(client)).query).toBe("select 1");
        expect(await advisoryLocks()).toEqual([]);
      },
    );
  });

  describe("a server that accepts and never answers", () => {
    test.each([
      ["by connWaitTimeout", "60ms", 0],
      ["by the pool's own bound", "30s", 60],
    ])("is a connection-timeout, %s", async (_, connWaitTimeout, connectionTimeoutMillis) => {
      await using server = await silentServer();
      const pool = createPool({ connectionString: server.url, connectionTimeoutMillis, max: 2 });
      await using locker = createLocker({ sessions, pool, connWaitTimeout });
      // One more than the pool has room for: a pool full of connections that are being made is not saturated.
      const acquired = await Promise.allSettled([1, 2, 3].map(() => locker.acquire(uniqueKey())));
      const timedOut = { reason: "connection-timeout" };
      expect(acquired.map((each) => each.status === "rejected" && each.reason)).toMatchObject([
        timedOut,
        timedOut,
        timedOut,
      ]);
      // The pool connects again for the caller that is still in its queue.
      await until(() => {
        server.hangUp();
        return pool.totalCount === 0 && pool.waitingCount === 0;
      });
    });

    test("and answers late gets its connection back untouched", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      const pool = createPool({ connectionString: proxy.url });
      await using locker = createLocker({ sessions, pool, connWaitTimeout: "60ms" });
      proxy.freeze();
      await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ reason: "connection-timeout" });
      proxy.thaw();
      await until(() => pool.totalCount === 1 && pool.idleCount === 1);
      const client = await pool.connect();
      expect((await activity(client)).query).toBe("");
      client.release();
    });
  });

  describe("a DatabaseError with the driver's own cause is for", () => {
    test("a server that refuses connections", async () => {
      const server = await silentServer();
      await server[Symbol.asyncDispose]();
      const pool = createPool({ connectionString: server.url });
      await using locker = createLocker({ sessions, pool });
      const failure = locker.acquire(uniqueKey());
      await expect(failure).rejects.toBeInstanceOf(DatabaseError);
      await expect(failure).rejects.toMatchObject({ sqlState: undefined, cause: { code: "ECONNREFUSED" } });
      expect(pool.totalCount).toBe(0);
    });

    test("a database that doesn't exist", async () => {
      const pool = createPool({ connectionString: urlWith({ database: "no_such_database" }) });
      await using locker = createLocker({ sessions, pool });
      const failure = locker.acquire(uniqueKey());
      await expect(failure).rejects.toBeInstanceOf(DatabaseError);
      await expect(failure).rejects.toMatchObject({ sqlState: "3D000", cause: { code: "3D000" } });
    });

    test("a wrong password", async () => {
      await using server = await startServer();
      const admin = createPool({ connectionString: server.url });
      await admin.query("create role password_required");
      await admin.query("create role alice login password 'secret' in role password_required");
      const connectionString = server.url.replace("postgres@", "alice:wrong@");
      await using locker = createLocker({ sessions, pool: createPool({ connectionString }) });
      const failure = locker.acquire(uniqueKey());
      await expect(failure).rejects.toBeInstanceOf(DatabaseError);
      await expect(failure).rejects.toMatchObject({ sqlState: "28P01" });
    });

    test.skipIf(isOverPostgresJs)("a pool that has ended", async () => {
      const pool = createPool();
      await using locker = createLocker({ sessions, pool });
      await pool.end();
      await expect(locker.acquire(uniqueKey())).rejects.toBeInstanceOf(DatabaseError);
    });
  });

  describe("a session's settings", () => {
    const settings = `select current_setting('idle_session_timeout') as a, current_setting('statement_timeout') as b,
    current_setting('default_transaction_isolation') as c, current_setting('application_name') as d, pg_backend_pid() as e`;
    const own = [
      "idle_session_timeout=10min",
      "statement_timeout=4s",
      "default_transaction_isolation=serializable",
    ];

    test("are back after a release, and after a refusal", async () => {
      const options = own.map((setting) => `-c ${setting}`).join(" ");
      const pool = createPool({ max: 2, application_name: "mine", options });
      const clients = clientsOf(pool);
      const settingsOfAll = async () => {
        await until(() => pool.idleCount === pool.totalCount);
        expect([pool.totalCount, clients.length]).toEqual([1, 1]);
        return (await clients[0]?.query(settings))?.rows;
      };
      await using locker = createLocker({ sessions, pool });
      await using elsewhere = createLocker({ sessions });
      await (await locker.acquire(uniqueKey())).release();
      const before = { a: "10min", b: "4s", c: "serializable", d: "mine", e: clients[0]?.processID };
      expect(await settingsOfAll()).toEqual([before]);
      await using held = await elsewhere.acquire(uniqueKey());
      expect(await locker.tryAcquire(held.key)).toBeUndefined();
      expect(await settingsOfAll()).toEqual([before]);
    });

    test.each([
      ["plain", 7, "invoice 42", "pg-locker 7 invoice 42"],
      ["percent-encoded", -1, "clé 100%", "pg-locker -1 cl%C3%A9 100%25"],
      ["cut to 63 characters", 0, "x".repeat(80), `pg-locker 0 ${"x".repeat(51)}`],
      [
        "cut before a character that doesn't fit whole",
        0,
        `${"x".repeat(49)}é`,
        `pg-locker 0 ${"x".repeat(49)}`,
      ],
    ])("say who holds, in pg_stat_activity: %s", async (_, namespace, key, name) => {
      const pool = createPool({ max: 1, application_name: "mine" });
      const clients = clientsOf(pool);
      await using locker = createLocker({ sessions: "dedicated", pool, namespace });
      const lock = await locker.acquire(key);
      const [client] = clients;
      if (client === undefined) throw new Error("no client");
      expect((await activity(client)).application_name).toBe(name);
      await lock.release();
      expect((await activity(client)).application_name).toBe("mine");
    });
  });
});

describe("a pool of few connections", () => {
  test.skipIf(isOverPostgresJs)("is saturated while a lock is held", async () => {
    const pool = await createOpenPool({ max: 1 });
    await using locker = createLocker({ sessions: "dedicated", pool, connWaitTimeout: "50ms" });
    await using held = await locker.acquire(uniqueKey());
    const refused = await locker.acquire(uniqueKey()).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(LockNotAcquiredError);
    expect(refused).toMatchObject({ reason: "pool-saturated", waited: expect.any(Number) });
    await expect(locker.tryAcquire(uniqueKey())).rejects.toMatchObject({ reason: "pool-saturated" });
    expect(held.held).toBe(true);
    expect(pool.waitingCount).toBe(1);
  });

  test.skipIf(isOverPostgresJs)("with a shorter bound of its own is saturated all the same", async () => {
    const pool = await createOpenPool({ max: 1, connectionTimeoutMillis: 60 });
    await using locker = createLocker({ sessions: "dedicated", pool, connWaitTimeout: "30s" });
    await using _held = await locker.acquire(uniqueKey());
    await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ reason: "pool-saturated" });
    expect(pool.waitingCount).toBe(0);
  });

  test.skipIf(isOverPostgresJs)(
    "with a longer bound, which ends after the caller gave up, harms nobody",
    async () => {
      const pool = await createOpenPool({ max: 1, connectionTimeoutMillis: 150 });
      await using locker = createLocker({ sessions: "dedicated", pool, connWaitTimeout: "40ms" });
      await using _held = await locker.acquire(uniqueKey());
      const refused = locker.acquire(uniqueKey());
      await expect(refused).rejects.toMatchObject({ reason: "pool-saturated" });
      // An exception thrown in the pool's timer would fail the run.
      await expect(pool.connect()).rejects.toThrow("timeout exceeded");
      expect(pool.waitingCount).toBe(0);
    },
  );

  test.skipIf(isOverPostgresJs)("goes on after connections for thousands who have left", async () => {
    const pool = createPool({ max: 1 });
    await using locker = createLocker({ pool, sessions: "dedicated", connWaitTimeout: "1ms" });
    const client = await pool.connect();
    const left = Array.from({ length: 10_000 }, () =>
      locker.acquire(uniqueKey()).catch(({ reason }) => reason),
    );
    expect(new Set(await Promise.all(left))).toEqual(new Set(["pool-saturated"]));
    expect(pool.waitingCount).toBe(10_000);
    client.release();
    await until(() => pool.waitingCount === 0 && pool.idleCount === 1);
    expect(await (await locker.acquire(uniqueKey())).release()).toBeUndefined();
  });

  test.skipIf(isOverPostgresJs)("survives one that ends in the step in which it comes too late", async () => {
    const pool = createPool({ max: 1 });
    const connect = pool.connect.bind(pool);
    // As if the server's last message had come together with its first one.
    const connecting = (callback: (error: unknown, client?: pg.PoolClient, release?: () => void) => void) =>
      connect((error, client, release) => {
        callback(error, client, release);
        client?.emit("error", new Error("terminating connection due to administrator command"));
      });
    Object.assign(pool, { connect: connecting });
    await using locker = createLocker({ pool, sessions: "dedicated", connWaitTimeout: "50ms" });
    const client = await connect();
    await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ reason: "pool-saturated" });
    client.release();
    await until(() => pool.waitingCount === 0);
    expect(client.listenerCount("error")).toBe(1);
  });

  test("is waited for without a bound if connWaitTimeout is negative", async () => {
    const pool = createPool({ max: 1 });
    await using locker = createLocker({ sessions: "dedicated", pool, connWaitTimeout: "-1s" });
    const held = await locker.acquire(uniqueKey());
    const waiting = locker.acquire(uniqueKey());
    expect(pool.waitingCount).toBe(1);
    await held.release();
    await using lock = await waiting;
    expect(lock.held).toBe(true);
  });
});

test("connWaitTimeout is 5 s by default and for 0, and unbounded if negative", () => {
  expect([0, "0s", undefined].map(connWaitMilliseconds)).toEqual([5_000, 5_000, 5_000]);
  expect([-1, "-1s"].map(connWaitMilliseconds)).toEqual([Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY]);
  expect(connWaitMilliseconds("50ms")).toBe(50);
});

describe("a DatabaseError with the driver's own cause is for", () => {
  test("a failed try-lock, which destroys the session because it may hold the lock", async () => {
    await using role = await createRole();
    const admin = createPool({ max: 1 });
    await admin.query("revoke execute on function pg_try_advisory_lock(bigint) from public");
    try {
      const pool = createPool({ connectionString: role.url });
      if (!isOverPostgresJs) await pool.query("select 1");
      await using locker = createLocker({ sessions: "dedicated", pool });
      const failure = locker.acquire(uniqueKey());
      await expect(failure).rejects.toBeInstanceOf(DatabaseError);
      await expect(failure).rejects.toMatchObject({ sqlState: "42501" });
      expect(pool.totalCount).toBe(0);
    } finally {
      await admin.query("grant execute on function pg_try_advisory_lock(bigint) to public");
    }
  });
});

async function activity(client: pg.PoolClient): Promise<{ query: string; application_name: string }> {
  const { processID } = client as unknown as { processID: number };
  const sql = "select query, application_name from pg_stat_activity where pid = $1";
  const [row] = await onServer<{ query: string; application_name: string }>(sql, [processID]);
  if (row === undefined) throw new Error("no such session");
  return row;
}
