import { once } from "node:events";
import { type AddressInfo, connect as connectSocket, createServer, type Socket } from "node:net";
import type pg from "pg";
import { describe, expect, test } from "vitest";
import { LockLostError, lockId, PoolerDetectedError, StandbyError } from "../../src/index.ts";
import {
  advisoryLocks,
  connect,
  createPool,
  createRole,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
} from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { startServer } from "../support/start-server.ts";
import { until } from "../support/until.ts";

// Sessions whose locks would mean nothing are refused before anything is done to them.

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test("a standby is refused, and trusted once it is promoted", async () => {
    await using primary = await startServer();
    await using standby = await primary.standby();
    const pool = createPool({ connectionString: standby.url });
    const admin = createPool({ connectionString: standby.url });
    await using locker = createLocker({ sessions, pool });
    const key = uniqueKey();
    await expect(locker.acquire(key)).rejects.toBeInstanceOf(StandbyError);
    await expect(locker.tryAcquire(key, { mode: "shared" })).rejects.toBeInstanceOf(StandbyError);
    await expect(locker.ping()).rejects.toBeInstanceOf(StandbyError);
    expect((await admin.query("select from pg_locks where locktype = 'advisory'")).rowCount).toBe(0);
    expect(pool.totalCount).toBe(pool.idleCount);
    await standby.promote();
    await locker.ping();
    const lock = await locker.acquire(key);
    await lock.refresh();
    expect((await admin.query("select from pg_locks where locktype = 'advisory'")).rowCount).toBe(1);
    await lock.release();
  });

  test.skipIf(isOverPostgresJs)("a standby may be the pool for reads", async () => {
    await using primary = await startServer();
    await using standby = await primary.standby();
    const [write, read] = [primary, standby].map(({ url }) => createPool({ connectionString: url }));
    if (write === undefined || read === undefined) throw new Error("no pools");
    await using locker = createLocker({ sessions, database: { write, read } });
    await locker.ping();
    await using lock = await locker.acquire(uniqueKey());
    expect(lock.held).toBe(true);
  });

  describe("a session that announces another backend than the one which serves it", () => {
    test("is refused, with nothing locked", async () => {
      await using pooler = await startPooler(databaseUrl());
      const pool = createPool({ connectionString: pooler.url });
      await using locker = createLocker({ sessions, pool });
      const refused = await locker.acquire(uniqueKey()).catch((error: unknown) => error);
      expect(refused).toBeInstanceOf(PoolerDetectedError);
      expect((refused as Error).message).toContain('pooler: "session"');
      // The pooler keeps the session that was refused, and would pass it on with all its locks.
      expect(await servedBy(pooler)).toHaveLength(1);
      expect(await advisoryLocks()).toEqual([]);
      expect(pool.totalCount).toBe(0);
    });

    test("still has its settings", async () => {
      await using role = await createRole({ settings: { idle_session_timeout: "400ms" } });
      await using pooler = await startPooler(role.url);
      const pool = createPool({ connectionString: pooler.url, application_name: "somebody's" });
      await using locker = createLocker({ sessions, pool });
      await expect(locker.acquire(uniqueKey())).rejects.toBeInstanceOf(PoolerDetectedError);
      expect((await servedBy(pooler)).map((session) => session["application_name"])).toEqual(["somebody's"]);
      // The time-out that is off for a holder's session ends this one.
      await until(async () => (await servedBy(pooler)).length === 0);
    });
  });

  // Under an open socket, as when a primary is demoted, or a pooler changes its mind. In this file's own database; the planner inlines an
  // SQL function wherever it is called.
  describe.each([
    {
      says: "is on a standby by now",
      name: "pg_is_in_recovery() returns boolean",
      pretended: "select true",
      own: "language internal volatile strict parallel safe as 'pg_is_in_recovery'",
      expected: StandbyError,
    },
    {
      says: "is served by another backend by now",
      name: "pg_backend_pid() returns int",
      pretended: "select 1",
      own: "language internal stable strict parallel restricted as 'pg_backend_pid'",
      expected: PoolerDetectedError,
    },
  ])("a session that $says", ({ name, pretended, own, expected }) => {
    const replace = async (how: string) =>
      void (await (await connect()).query(`create or replace function pg_catalog.${name} ${how}`));
    const pretend = () => replace(`language sql as '${pretended}'`);
    const end = () => replace(own);

    test("is found by a refresh, and its lock is lost", async () => {
      const pool = createPool();
      await using locker = createLocker({ sessions, pool });
      const lock = await locker.acquire(uniqueKey());
      const { signal } = lock;
      await pretend();
      try {
        const refreshed = lock.refresh();
        await expect(refreshed).rejects.toMatchObject({ reason: "lost", cause: expect.any(expected) });
        expect([lock.held, signal.reason instanceof LockLostError]).toEqual([false, true]);
        expect(pool.totalCount).toBe(0);
      } finally {
        await end();
      }
    });

    test("is found by an acquire, which is granted nothing", async () => {
      const pool = createPool();
      await using locker = createLocker({ sessions, pool });
      // A session in the pool, or one that carries a lock, is from before.
      const locks = [await locker.acquire(uniqueKey()), await locker.acquire(uniqueKey())];
      await locks[0]?.release();
      await pretend();
      const key = uniqueKey();
      try {
        await expect(locker.acquire(key)).rejects.toBeInstanceOf(expected);
        // Its session has been cut, which the server notices in a moment.
        await until(async () => (await holdersOf(lockId(0, key))).length === 0);
      } finally {
        await end();
      }
      await using next = await locker.acquire(key);
      expect(next.held).toBe(true);
      await locks[1]?.release().catch(() => {});
    });
  });
});

describe("a session that announces another backend than the one which serves it", () => {
  test("is accepted if the caller says that the pooler keeps a session a client", async () => {
    await using pooler = await startPooler(databaseUrl());
    const pool = createPool({ connectionString: pooler.url });
    await using locker = createLocker({ sessions: "dedicated", pool, pooler: "session" });
    const lock = await locker.acquire(uniqueKey());
    await lock.refresh();
    expect(await advisoryLocks()).toMatchObject([{ id: lock.id, pid: pooler.pids[0] }]);
    await lock.release();
    expect(await advisoryLocks()).toEqual([]);
    expect([pool.totalCount, pool.idleCount]).toEqual([1, 1]);
  });
});

interface Pooler extends AsyncDisposable {
  readonly url: string;
  /** The backends that served its clients. */
  readonly pids: number[];
}

async function servedBy(pooler: Pooler): Promise<pg.QueryResultRow[]> {
  return onServer("select application_name from pg_stat_activity where pid = any($1)", [pooler.pids]);
}

/** Announces backends that don't exist, and keeps the sessions of clients that have gone, as a pooler does. */
async function startPooler(targetUrl: string): Promise<Pooler> {
  const target = new URL(targetUrl);
  const pids: number[] = [];
  const sockets = new Set<Socket>();
  const listener = createServer((client) => {
    const server = connectSocket({ host: target.hostname, port: Number(target.port || 5432) });
    for (const socket of [client, server]) sockets.add(socket.on("error", () => {}));
    // Except for what ends the session: its Terminate message, or its end.
    client.on("data", (data) => {
      if (data[0] !== 0x58) server.write(data);
    });
    let greeting: Buffer | undefined = Buffer.alloc(0);
    server.on("data", (data) => {
      if (greeting === undefined) {
        client.write(data);
        return;
      }
      greeting = Buffer.concat([greeting, data]);
      const at = findBackendKeyData(greeting);
      if (at === undefined) return;
      pids.push(greeting.readInt32BE(at));
      greeting.writeInt32BE(greeting.readInt32BE(at) + 1_000_000, at);
      client.write(greeting);
      greeting = undefined;
    });
    server.on("close", () => client.destroy());
  }).listen(0, "127.0.0.1");
  await once(listener, "listening");
  const url = new URL(targetUrl);
  url.host = `127.0.0.1:${(listener.address() as AddressInfo).port}`;
  return {
    url: url.href,
    pids,
    [Symbol.asyncDispose]: async () => {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => listener.close(resolve));
    },
  };
}

/** The position of the pid in what the server sends before its first ReadyForQuery; needs a login without a password. */
function findBackendKeyData(greeting: Buffer): number | undefined {
  let at = 0;
  while (at + 5 <= greeting.length) {
    const end = at + 1 + greeting.readInt32BE(at + 1);
    if (greeting[at] === 0x4b && end <= greeting.length) return at + 5;
    at = end;
  }
  return undefined;
}
