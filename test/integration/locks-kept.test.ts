import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { describe, expect, test } from "vitest";
import { diagnose, LocksNotKeptError, lockId } from "../../src/index.ts";
import { statementDeadline } from "../../src/postgres/session.ts";
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
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { silentServer } from "../support/silent-server.ts";
import { startServer } from "../support/start-server.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

const database = new URL(databaseUrl()).pathname.slice(1);

const connections = async (): Promise<number> =>
  (
    await onServer("select from pg_stat_activity where datname = $1 and backend_type = 'client backend'", [
      database,
    ])
  ).length;

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test("a server that keeps locks is asked once, on connections that are gone afterwards", async () => {
    const pool = createPool({ max: 2 });
    await using locker = createLocker({ sessions, pool });
    const lock = await locker.acquire(uniqueKey());
    expect((await advisoryLocks()).map(({ id }) => id)).toEqual([lock.id]);
    await lock.release();
    await until(async () => (await connections()) === 1);
    // Nobody else can connect from now on, so a second proof would fail.
    await onServer(`alter database ${database} allow_connections false`);
    try {
      await (await locker.acquire(uniqueKey())).release();
      await until(() => pool.idleCount === 1);
      const second = createLocker({ sessions, pool });
      await (await second.acquire(uniqueKey())).release();
      await second.close();
    } finally {
      await onServer(`alter database ${database} allow_connections true`);
    }
  });

  test.each([
    ["had", 2],
    ["refused", 1],
  ])("if the proof was %s, its connection is gone when the acquire returns", async (_, limit) => {
    await using role = await createRole({ connectionLimit: limit });
    let open = 0;
    let made = 0;
    class Counted extends pg.Client {
      constructor(config?: pg.ClientConfig) {
        super(config);
        this.once("connect", () => {
          open += 1;
          made += 1;
          this.once("end", () => {
            open -= 1;
          });
        });
      }
    }
    const connectionString = role.url;
    const pool = createPool({ connectionString, max: 1, Client: Counted });
    const locker = createLocker({ sessions, pool });
    const lock = await locker.acquire(uniqueKey());
    expect([open, made]).toEqual([1, limit]);
    // So that there is room for as many connections as before.
    const others = Array.from({ length: limit - 1 }, () => connect({ connectionString }));
    for (const other of await Promise.all(others)) await other.end();
    await lock.release();
    await locker.close();
    await pool.end();
    await until(() => open === 0);
  });

  test("a proof that is given up in the middle leaves no connection and no lock", async () => {
    const key = uniqueKey();
    const holder = await connect();
    await holder.query("select pg_advisory_lock($1)", [lockId(0, key)]);
    let late = 0;
    // The answer to its second statement comes when the time for the proof is over.
    class SlowClient extends pg.Client {
      override query(...args: unknown[]): never {
        // biome-ignore lint/suspicious/noExplicitAny: it has nine signatures
        const answer = (super.query as any)(...args);
        if (!String((args[0] as { text?: string }).text).includes("pg_locks")) return answer as never;
        late += 1;
        return delay(400).then(() => answer) as never;
      }
    }
    const pool = createPool({ Client: SlowClient } as pg.PoolConfig);
    await using locker = createLocker({ sessions, pool, connWaitTimeout: 200 });
    const waiting = locker.acquire(key, { wait: "2s" }).catch((error: unknown) => error);
    await until(() => late > 0);
    expect(await waiting).toMatchObject({ reason: "wait-timeout" });
    await until(async () => (await advisoryLocks()).length === 1, { deadline: 3_000 });
    await holder.end();
  });

  test("a lock granted before the proof is released, and acquired again after it", async () => {
    const pool = createPool();
    await pool.query("select 1");
    await using proxy = await TcpProxy.start(databaseUrl());
    proxy.freeze();
    // Connections that are made from now on.
    (pool.options as { connectionString: string }).connectionString = proxy.url;
    await using locker = createLocker({ sessions, pool });
    const key = uniqueKey();
    const acquired = locker.acquire(key, { ttl: "1s" });
    await until(async () => (await advisoryLocks()).length === 1);
    await until(async () => (await advisoryLocks()).length === 0, { deadline: 3_000 });
    proxy.thaw();
    const lock = await acquired;
    expect(lock.held).toBe(true);
    expect(await holdersOf(lock.id)).toHaveLength(1);
    await lock.release();
    await until(() => proxy.size === 0);
  });

  test.each(["aborted", "closed"])(
    "an acquire that is %s while the proof has no answer leaves nothing",
    async (how) => {
      const pool = createPool();
      await pool.query("select 1");
      await using proxy = await TcpProxy.start(databaseUrl());
      proxy.freeze();
      (pool.options as { connectionString: string }).connectionString = proxy.url;
      const locker = createLocker({ sessions, pool });
      const aborting = new AbortController();
      const reason = new Error("the caller's own reason");
      const acquired = locker
        .acquire(uniqueKey(), { signal: aborting.signal })
        .catch((error: unknown) => error);
      await until(() => proxy.size === 1);
      expect(await advisoryLocks()).toHaveLength(1);
      if (how === "aborted") aborting.abort(reason);
      const closed = locker.close();
      const error = await acquired;
      if (how === "aborted") expect(error).toBe(reason);
      else expect(error).toMatchObject({ code: "LOCKER_CLOSED" });
      proxy.thaw();
      await closed;
      expect(await advisoryLocks()).toEqual([]);
      expect(pool.totalCount).toBe(pool.idleCount);
      await until(() => proxy.size === 0);
    },
  );

  test("a failover in the middle of the proof is not taken for a server without locks", async () => {
    await using promoted = await startServer();
    let made = 0;
    class FailedOver extends pg.Client {
      constructor(config: pg.ClientConfig = {}) {
        made += 1;
        // The pool's own connection, the one of a proof by the granted lock, then the two of a proof by a lock of its own, twice.
        super(made === 2 || made === 4 ? { ...config, connectionString: promoted.url } : config);
      }
    }
    await using locker = createLocker({ sessions, pool: createPool({ Client: FailedOver }) });
    const lock = await locker.acquire(uniqueKey());
    expect(lock.held).toBe(true);
    expect(made).toBe(6);
    await lock.release();
  });
});

// From here on, this file's database is broken on purpose. The planner inlines an SQL function wherever it is called.
describe.each(sessionModes)("with %s sessions", (sessions) => {
  test("a server that answers true and locks nothing is refused", async () => {
    const client = await connect();
    await client.query(
      "create or replace function pg_catalog.pg_try_advisory_lock(bigint) returns boolean language sql as 'select true'",
    );
    const pool = createPool();
    await using locker = createLocker({ sessions, pool });
    const refused = await locker.acquire(uniqueKey()).catch((error: unknown) => error);
    expect(refused).toBeInstanceOf(LocksNotKeptError);
    expect(refused).toMatchObject({ code: "LOCKS_NOT_KEPT" });
    await expect(locker.tryAcquire(uniqueKey())).rejects.toBeInstanceOf(LocksNotKeptError);
    await expect(locker.withLock(uniqueKey(), () => expect.unreachable())).rejects.toThrow("keep");
  });
});

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test("a server that knows no time-out for idle sessions is too old", async () => {
    // As above: about a name that it doesn't know, the server says what a server before 14 says about this one.
    const client = await connect();
    await client.query(
      `create or replace function pg_catalog.current_setting(text) returns text stable language sql as
       $$ select pg_catalog.current_setting(case $1 when 'idle_session_timeout' then 'no_such_setting' else $1 end, false) $$`,
    );
    const pool = createPool();
    await using locker = createLocker({ pool, sessions });
    const refused = locker.acquire(uniqueKey());
    await expect(refused).rejects.toMatchObject({ code: "SERVER_TOO_OLD", cause: { code: "42704" } });
    expect(await advisoryLocks()).toEqual([]);
  });
});

test("a diagnosis gives the proof no longer than its own deadline allows", async () => {
  await using silent = await silentServer();
  let connections = 0;
  // The first two connections are the diagnosis's own, and its second client, which looks for a pooler.
  class SilentFromTheThird extends pg.Client {
    constructor(config?: pg.ClientConfig) {
      connections += 1;
      super(connections < 3 ? config : { ...config, connectionString: silent.url });
    }
  }
  const start = performance.now();
  const findings = await diagnose(createPool({ Client: SilentFromTheThird }), { deadline: "300ms" });
  expect(performance.now() - start).toBeLessThan(statementDeadline);
  expect(silent.accepted).toBe(1);
  expect(findings.find(({ check }) => check === "locks")).toMatchObject({
    verdict: "warn",
    found: expect.stringMatching(/^not proved/),
  });
});
