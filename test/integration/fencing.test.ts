import { beforeAll, describe, expect, test } from "vitest";
import {
  type AcquireOptions,
  DatabaseError,
  InvalidConfigError,
  type Lock,
  LockNotAcquiredError,
  lockId,
  type TransactionOptions,
} from "../../src/index.ts";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
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
import { startServer } from "../support/start-server.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// Fencing tokens as the library returns them: they grow from each holder of a key to the next, in whatever process, over crashes and over a
// promotion. So a resource that remembers the largest one refuses a holder that comes back too late.

describe.each(sessionModes)("with %s sessions", (sessions) => {
  describe("the tokens of a key", () => {
    test("grow in the order of the grants, over the holders of three processes", async () => {
      const key = uniqueKey();
      const rounds = 25;
      const args = [key, JSON.stringify({ fencing: true, wait: "20s" })];
      const start = () =>
        Child.start("hold-enforced.mjs", { args, env: { DATABASE_URL: databaseUrl(), SESSIONS: sessions } });
      await using one = start();
      await using two = start();
      await using three = start();
      const children = [one, two, three];
      for (const child of children) await child.message((message) => "ready" in message);
      for (const child of children) child.send({ rounds });
      const exits = await Promise.all(children.map((child) => child.exited));
      expect(exits.map(({ code }) => code)).toEqual([0, 0, 0]);
      // Each instant was read while the lock was held, so they are in the order of the grants.
      const grants = children
        .flatMap((child) => child.messages.filter((message) => "token" in message))
        .map(({ token, at }) => ({ token: BigInt(String(token)), at: BigInt(String(at)) }))
        .sort((a, b) => (a.at < b.at ? -1 : 1));
      expect(grants).toHaveLength(3 * rounds);
      expectGrowing(grants.map(({ token }) => token));
    });

    test("grow from locker to locker, even if an administrator killed the holder", async () => {
      await using one = createLocker({ sessions });
      await using other = createLocker({ sessions, ttlEnforcement: "server" });
      const key = uniqueKey();
      const tokens: (bigint | undefined)[] = [];
      for (const locker of [one, other, one, other]) {
        const lock = await until(() => locker.tryAcquire(key, { fencing: true }));
        tokens.push(lock.fencingToken);
        await onServer("select pg_terminate_backend($1)", await holdersOf(lock.id));
        await until(() => !lock.held);
      }
      expectGrowing(tokens);
    });

    test("are bigints, and stay what they are over refreshes and the release", async () => {
      await using locker = createLocker({ sessions });
      const lock = await locker.acquire(uniqueKey(), { fencing: true });
      const token = lock.fencingToken;
      expect(token).toBeTypeOf("bigint");
      expect(token).toBeGreaterThan(2n ** 48n);
      expect(token).toBeLessThan(2n ** 63n);
      await lock.refresh("1m");
      expect(lock.fencingToken).toBe(token);
      await lock.release();
      expect(lock.fencingToken).toBe(token);
    });

    test("grow from a group of locks to the next, over all of its keys", async () => {
      await using locker = createLocker({ sessions });
      const keys = [uniqueKey(), uniqueKey()];
      const tokens: (bigint | undefined)[][] = [];
      for (let round = 0; round < 2; round++) {
        const group = await locker.acquireAll(keys, { fencing: true });
        tokens.push(group.locks.map((lock) => lock.fencingToken));
        await group.release();
      }
      const [before = [], after = []] = tokens;
      for (const token of after) for (const old of before) expectGrowing([old, token]);
    });

    test("are handed to a reader that joins others, before a writer that waits elsewhere", async () => {
      const key = uniqueKey();
      await using readers = createLocker({ sessions });
      await using writers = createLocker({ sessions });
      const shared = { mode: "shared", fencing: true } as const;
      const first = await readers.acquire(key, shared);
      const second = await readers.acquire(key, shared);
      const written = writers.acquire(key, { wait: "10s", fencing: true });
      await until(async () => (await advisoryLocks()).some(({ granted }) => !granted));
      expect(await readers.tryAcquire(key, shared)).toBeUndefined();
      await Promise.all([first.release(), second.release()]);
      const writer = await written;
      const tokens = [first, second, writer].map(({ fencingToken = 0n }) => fencingToken);
      expect(tokens).toEqual([...tokens].sort((a, b) => (a < b ? -1 : 1)));
      expect(new Set(tokens).size).toBe(3);
      expect(tokens[0]).toBeGreaterThan(0n);
      await writer.release();
    });

    test("are handed to the function of withLock", async () => {
      await using locker = createLocker({ sessions });
      const key = uniqueKey();
      const draw = () => locker.withLock(key, (lock) => lock.fencingToken, { fencing: true });
      expectGrowing([await draw(), await draw(), await draw()]);
    });
  });

  describe("if no token is asked for", () => {
    test.each([{}, { fencing: false }])("with %j, there is none", async (options) => {
      await using locker = createLocker({ sessions });
      await using lock = await locker.acquire(uniqueKey(), options);
      expect(lock.fencingToken).toBeUndefined();
    });

    test("withTransaction has no option of that name", async () => {
      await using locker = createLocker({ sessions });
      let hasRun = false;
      const refused = locker.withTransaction(
        uniqueKey(),
        () => {
          hasRun = true;
        },
        { fencing: true } as TransactionOptions,
      );
      await expect(refused).rejects.toBeInstanceOf(InvalidConfigError);
      await expect(refused).rejects.toMatchObject({ field: "fencing" });
      expect(hasRun).toBe(false);
    });

    test.each(["yes", 1, null])("fencing: %j is refused", async (fencing) => {
      await using locker = createLocker({ sessions });
      const refused = locker.acquire(uniqueKey(), { fencing } as unknown as AcquireOptions);
      await expect(refused).rejects.toMatchObject({ code: "INVALID_CONFIG", field: "fencing" });
    });
  });

  describe("on a server with synchronous_commit off and a slow WAL writer,", () => {
    let server: PostgresServer;

    beforeAll(async () => {
      // Only this file draws transaction ids here.
      const settings = { wal_writer_delay: "10s", autovacuum: "off" };
      server = await startServer({ settings });
      const session = await connect({ connectionString: server.url });
      await session.query("alter database postgres set synchronous_commit = off");
      await session.end();
      return () => server[Symbol.asyncDispose]();
    });

    test.each(["immediate", "kill"] as const)("the next token is larger after a crash (%s)", async (how) => {
      const pool = createPool({ connectionString: server.url });
      expect((await pool.query("show synchronous_commit")).rows).toEqual([{ synchronous_commit: "off" }]);
      await using locker = createLocker({ sessions, pool, ttlEnforcement: "server" });
      const key = uniqueKey();
      for (let round = 0; round < 3; round++) {
        const before = await locker.acquire(key, { fencing: true });
        const { fencingToken, signal } = before;
        if (how === "kill") await server.kill();
        else await server.stop({ mode: "immediate" });
        await until(() => signal.aborted);
        await server.resume();
        const after = await locker.acquire(key, { fencing: true });
        expectGrowing([fencingToken, after.fencingToken]);
        await after.release();
      }
    });

    test("only a granted token takes a transaction id, and each takes one", async () => {
      await using locker = createLocker({ sessions, pool: createPool({ connectionString: server.url }) });
      await using other = createLocker({ sessions, pool: createPool({ connectionString: server.url }) });
      const key = uniqueKey();
      const session = await connect({ connectionString: server.url });
      const next = async () => {
        const sql = "select pg_snapshot_xmax(pg_current_snapshot())::text as next";
        return BigInt((await session.query<{ next: string }>(sql)).rows[0]?.next ?? 0);
      };
      const start = await next();
      await using lock = await locker.acquire(key, { fencing: true });
      expect(await next()).toBe(start + 1n);
      expect((lock.fencingToken ?? 0n) & (2n ** 48n - 1n)).toBe(start);
      for (let i = 0; i < 10; i++) {
        expect(await other.tryAcquire(key, { fencing: true })).toBeUndefined();
        expect(await other.tryAcquire(key, { fencing: true, mode: "shared" })).toBeUndefined();
      }
      await expect(other.acquire(key, { fencing: true, wait: 50 })).rejects.toBeInstanceOf(
        LockNotAcquiredError,
      );
      for (let i = 0; i < 5; i++) await (await other.acquire(uniqueKey())).release();
      await lock.refresh();
      expect(await next()).toBe(start + 1n);
      for (let i = 1n; i <= 5n; i++) {
        await (await other.acquire(uniqueKey(), { fencing: true })).release();
        expect(await next()).toBe(start + 1n + i);
      }
    });
  });

  test.skipIf(isOverPostgresJs)(
    "a promoted standby's token is larger than any of the old primary",
    async () => {
      await using primary = await startServer();
      await using standby = await primary.standby();
      await using old = createLocker({
        sessions,
        pool: createPool({ connectionString: primary.url }),
        ttlEnforcement: "server",
      });
      const key = uniqueKey();
      const options = { fencing: true, autoRefresh: true, ttl: "1h" };
      const first = await old.acquire(key, options);
      await standby.promote();
      const data = createPool({ connectionString: standby.url });
      await using promoted = createLocker({ sessions, pool: data, ttlEnforcement: "server" });
      const second = await promoted.acquire(key, options);
      expectGrowing([first.fencingToken, second.fencingToken]);

      // The old primary draws more, also for the same key.
      await first.refresh();
      await first.release();
      for (let i = 0; i < 100; i++) await (await old.acquire(uniqueKey(), { fencing: true })).release();
      const third = await old.acquire(key, options);
      expectGrowing([first.fencingToken, third.fencingToken, second.fencingToken]);
      const xid = (token: bigint | undefined) => (token ?? 0n) & (2n ** 48n - 1n);
      expect(xid(third.fencingToken)).toBeGreaterThan(xid(second.fencingToken));
      expect([third.held, second.held]).toEqual([true, true]);

      await data.query(
        "create table resource (key text primary key, token bigint not null, value text not null)",
      );
      const write = async (token: bigint | undefined, value: string) => {
        const sql = `insert into resource values ($1, $2, $3)
                 on conflict (key) do update set token = excluded.token, value = excluded.value
                  where resource.token <= excluded.token`;
        return (await data.query(sql, [key, token, value])).rowCount === 1;
      };
      // Before the resource has seen the new primary's tokens, it can't know.
      expect(await write(third.fencingToken, "of the old primary's holder")).toBe(true);
      expect(await write(second.fencingToken, "of the new primary's holder")).toBe(true);
      expect(await write(third.fencingToken, "too late")).toBe(false);
      expect(await write(first.fencingToken, "too late")).toBe(false);
      expect(await write(second.fencingToken, "once more")).toBe(true);
      expect((await data.query("select value from resource")).rows).toEqual([{ value: "once more" }]);
      await third.release();
      await second.release();
    },
  );
});

function expectGrowing(tokens: readonly (bigint | undefined)[]): void {
  expect(tokens.every((token) => typeof token === "bigint")).toBe(true);
  expect(tokens.filter((token, index) => index > 0 && (token ?? 0n) <= (tokens[index - 1] ?? 0n))).toEqual(
    [],
  );
}

/** Returns the next transaction id that will be drawn. */
async function nextTransaction(): Promise<bigint> {
  const [row] = await onServer<{ id: string }>("select pg_snapshot_xmax(pg_current_snapshot())::text as id");
  return BigInt(row?.id ?? 0);
}

const transactionOf = ({ fencingToken = 0n }: Lock) => fencingToken & (2n ** 48n - 1n);

describe.each(["a shared session", "a client of the caller's"])("on %s", (where) => {
  test("a lock is not granted if its session ends before its token is drawn", async () => {
    const key = uniqueKey();
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    await using locker = createLocker({ pool });
    // Before, there is only its session or the client.
    await using _ = await locker.acquire(uniqueKey());
    const client = where === "a shared session" ? undefined : await pool.connect();
    client?.on("error", () => {});
    const before = proxy.snapshot();
    const drawing = proxy.held();
    const outcome = locker.acquire(key, { fencing: true, ...(client && { client }) }).then(
      ({ fencingToken }) => fencingToken,
      (error: unknown) => error,
    );
    // The lock was granted: its token is drawn on a new connection.
    const connection = await drawing;
    before.freeze({ direction: "toClient" });
    const ended = await onServer("select pg_terminate_backend(pid, 10000) from unnest($1::int4[]) as pid", [
      await holdersOf(lockId(0, key)),
    ]);
    expect(ended).toHaveLength(1);
    await using direct = createLocker({ sessions: "dedicated" });
    await using next = await direct.acquire(key, { fencing: true });
    connection.thaw();
    await until(async () => (await nextTransaction()) > transactionOf(next) + 1n);
    before.thaw();
    // Its token would have been larger than the next holder's.
    expect(await outcome).toBeInstanceOf(DatabaseError);
    expect(await outcome).toMatchObject({
      message: expect.stringMatching(`^Drawing a fencing token.*"${key}"`),
    });
    expect(next.held).toBe(true);
    client?.release(true);
  });
});
