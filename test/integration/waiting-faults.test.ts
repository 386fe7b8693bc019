import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import type { LockNotAcquiredError, Logger, PostgresLocker } from "../../src/index.ts";
import { WaitingServer } from "../support/bounded-wait.ts";
import { createPool, type Session, uniqueKey } from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { Fleet, HeldByHand } from "../support/fleet.ts";
import { createLocker } from "../support/locker.ts";
import { PgBouncer } from "../support/pgbouncer.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// A fault that waiting can mend never ends a wait before its time, its signal or its close; a fault that waiting can't mend ends it at
// once. What a restart and a failover do to many waiters is in waiting-fleet.test.ts, what a role's settings do in
// waiting-beside-others.test.ts.

// Generous, because the machine may be busy.
vi.setConfig({ testTimeout: 60_000 });

let server: WaitingServer;

beforeAll(async () => {
  server = await WaitingServer.start({ max_connections: 30 });
  await server.rows("create role password_required");
  return () => server[Symbol.asyncDispose]();
});
beforeEach(() => server.log.mark());
afterEach(() => server.nothingLeft());

/** The connection string of another role or database. */
function urlWith(part: { user?: string; password?: string; database?: string; port?: number }): string {
  const url = new URL(server.url);
  if (part.user !== undefined) url.username = part.user;
  if (part.password !== undefined) url.password = part.password;
  if (part.database !== undefined) url.pathname = `/${part.database}`;
  if (part.port !== undefined) url.port = String(part.port);
  return url.href;
}

function lockerOn(
  connectionString: string,
  options: { logger?: Logger; pooler?: "session" } = {},
): PostgresLocker {
  return createLocker({ pool: createPool({ connectionString, max: 2 }), ...options });
}

/** The codes of an error and of its causes, the outermost first. */
function codesOf(error: unknown): unknown[] {
  const codes: unknown[] = [];
  for (let at = error; at instanceof Error; at = at.cause) {
    if ("sqlState" in at && at.sqlState !== undefined) codes.push(at.sqlState);
    if ("code" in at) codes.push(at.code);
    if (at instanceof AggregateError) codes.push(...at.errors.flatMap(codesOf));
  }
  return codes;
}

const terminate = (pid: number | undefined) => server.rows("select pg_terminate_backend($1)", [pid]);

describe("a session on which a caller waits", () => {
  const since = `select pid, waitstart::text as since from pg_locks
                  where not granted and ((classid::bigint << 32) | objid::bigint) = $1 and waitstart is not null`;

  test.each([
    ["terminated", "select pg_terminate_backend($1)"],
    ["cancelled by somebody else", "select pg_cancel_backend($1)"],
  ])("may be %s, again and again: the wait goes on, and gets the lock in the end", async (_, sql) => {
    await using held = await HeldByHand.on(server);
    await using fleet = await Fleet.start(1, server.url);
    const waiting = fleet.first.acquire(held.key, { wait: true });
    for (let times = 0; times < 3; times += 1) {
      await server.waiters(held.id, 1);
      const [before] = await server.rows<{ pid: number; since: string }>(since, [held.id.toString()]);
      await server.rows(sql, [before?.pid]);
      // It joins the queue again, on this session or on another one.
      await until(async () => {
        const [now] = await server.rows<{ pid: number; since: string }>(since, [held.id.toString()]);
        return now !== undefined && (now.pid !== before?.pid || now.since !== before.since);
      });
    }
    await server.waiters(held.id, 1);
    await held.release();
    const lock = await waiting;
    expect(lock.held).toBe(true);
    await lock.release();
  });

  test("may be terminated at the grant: no dead session holds, and the wait goes on", async () => {
    await using held = await HeldByHand.on(server);
    await using fleet = await Fleet.start(1, server.url);
    const waiting = fleet.first.acquire(held.key, { wait: true });
    const [pid] = await server.waiters(held.id, 1);
    await server.whileStopped({ processID: pid as number }, async () => {
      await held.release();
      expect(await server.pidsOf(held.id, "granted")).toEqual([pid]);
      await terminate(pid);
    });
    const lock = await waiting;
    const granted = await server.pidsOf(held.id, "granted");
    expect(granted).toHaveLength(1);
    expect(granted).not.toEqual([pid]);
    expect(lock.held).toBe(true);
    await lock.release();
  });

  test("may be cancelled at the grant: the lock that it then has is the caller's", async () => {
    await using held = await HeldByHand.on(server);
    await using fleet = await Fleet.start(1, server.url);
    const waiting = fleet.first.acquire(held.key, { wait: true });
    const [pid] = await server.waiters(held.id, 1);
    await server.whileStopped({ processID: pid as number }, async () => {
      await held.release();
      await server.rows("select pg_cancel_backend($1)", [pid]);
    });
    const lock = await waiting;
    expect(lock.held).toBe(true);
    expect(await server.pidsOf(held.id, "granted")).toHaveLength(1);
    await lock.release();
    // However often the session had it.
    expect(await server.pidsOf(held.id, "granted")).toEqual([]);
  });

  test("that is terminated while it carries the lock loses it, loudly", async () => {
    await using held = await HeldByHand.on(server);
    await using fleet = await Fleet.start(1, server.url);
    const waiting = fleet.first.acquire(held.key, { wait: true });
    await server.waiters(held.id, 1);
    await held.release();
    const lock = await waiting;
    const [pid] = await server.pidsOf(held.id, "granted");
    await terminate(pid);
    await until(() => lock.signal.aborted);
    expect(lock.signal.reason).toMatchObject({ code: "LOCK_LOST" });
    expect(lock.held).toBe(false);
    await lock.release().catch(() => {});
  });
});

test("random ends and cancels of sessions keep nobody from the lock, and leave none", async () => {
  await using fleet = await Fleet.start(4, server.url, { poolConfig: { max: 2, idleTimeoutMillis: 100 } });
  const keys = [uniqueKey(), uniqueKey()];
  const [callers, turns] = [12, 15];
  let had = 0;
  const work = Array.from({ length: callers }, async (_, number) => {
    const locker = fleet.lockers[number % fleet.lockers.length] as PostgresLocker;
    for (let turn = 0; turn < turns; turn += 1) {
      const lock = await locker.acquire(keys[(number + turn) % keys.length] as string, { wait: true });
      had += 1;
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 5));
      // Its session may have been ended.
      await lock.release().catch((error: unknown) => expect(error).toMatchObject({ code: "LOCK_NOT_HELD" }));
    }
  });
  let over = false;
  const all = Promise.all(work).finally(() => {
    over = true;
  });
  let faults = 0;
  while (!over) {
    const sessions = await server.sessions();
    const one = sessions[Math.floor(Math.random() * sessions.length)];
    const sql = Math.random() < 0.5 ? "select pg_terminate_backend($1)" : "select pg_cancel_backend($1)";
    if (one !== undefined) await server.rows(sql, [one.pid]);
    faults += 1;
    await new Promise((resolve) => setTimeout(resolve, 15));
  }
  await all;
  expect(had).toBe(callers * turns);
  expect(faults).toBeGreaterThan(10);
}, 60_000);

describe("a black hole on the link of a waiter", () => {
  test("keeps the bound, and leaves nothing once mended, though the lock was granted", async () => {
    await using proxy = await TcpProxy.start(server.url);
    await using held = await HeldByHand.on(server);
    await using fleet = await Fleet.start(1, proxy.url);
    const start = performance.now();
    const waiting = fleet.first.acquire(held.key, { wait: "1500ms" }).catch((error: unknown) => error);
    await server.waiters(held.id, 1);
    proxy.freeze();
    await held.release();
    expect(await waiting).toMatchObject({ reason: "wait-timeout" });
    expect(performance.now() - start).toBeLessThan(4_000);
    proxy.thaw();
    await until(async () => (await server.pidsOf(held.id, "granted")).length === 0);
    await (await fleet.first.acquire(held.key, { wait: "5s" })).release();
  });

  test("that passes does not end the wait", async () => {
    await using proxy = await TcpProxy.start(server.url);
    await using held = await HeldByHand.on(server);
    await using fleet = await Fleet.start(1, proxy.url);
    const waiting = fleet.first.acquire(held.key, { wait: "30s" });
    await server.waiters(held.id, 1);
    proxy.freeze();
    const start = performance.now();
    await until(() => performance.now() - start > 1_000);
    proxy.thaw();
    await held.release();
    const lock = await waiting;
    expect(lock.held).toBe(true);
    expect(await server.pidsOf(held.id, "granted")).toHaveLength(1);
    await lock.release();
  });

  test("doesn't hold up an abort", async () => {
    await using proxy = await TcpProxy.start(server.url);
    await using held = await HeldByHand.on(server);
    await using fleet = await Fleet.start(1, proxy.url);
    const aborting = new AbortController();
    const waiting = fleet.first
      .acquire(held.key, { wait: true, signal: aborting.signal })
      .catch((error: unknown) => error);
    await server.waiters(held.id, 1);
    proxy.freeze();
    const start = performance.now();
    aborting.abort("enough");
    expect(await waiting).toBe("enough");
    expect(performance.now() - start).toBeLessThan(1_000);
    proxy.thaw();
    await until(async () => (await server.pidsOf(held.id, "waiting")).length === 0);
  });

  test("doesn't hold up a first acquire if the proof of locks hangs in it", async () => {
    await using proxy = await TcpProxy.start(server.url);
    const pool = createPool({ connectionString: server.url });
    await pool.query("select 1");
    proxy.freeze();
    // Connections that are made from now on.
    (pool.options as { connectionString: string }).connectionString = proxy.url;
    await using locker = createLocker({ pool });
    const start = performance.now();
    const refused = await locker.acquire(uniqueKey(), { wait: "1s" }).catch((error: unknown) => error);
    expect(performance.now() - start).toBeLessThan(3_000);
    expect(refused).toMatchObject({ code: "LOCK_NOT_ACQUIRED" });
    proxy.thaw();
  });
});

describe("a database that isn't there", () => {
  const heard = () => {
    const warnings: string[] = [];
    const warn = (_: object, text: string) => void warnings.push(text);
    return { warnings, logger: { debug() {}, info() {}, error() {}, warn } };
  };

  test.each(["from the start", "after a while"])(
    "(%s) is waited for until the time has passed, with the last fault as cause",
    async (when) => {
      await using proxy = await TcpProxy.start(server.url);
      await using held = await HeldByHand.on(server);
      const { warnings, logger } = heard();
      await using locker = lockerOn(proxy.url, { logger });
      if (when === "after a while") await (await locker.acquire(uniqueKey())).release();
      const away = async () => {
        await proxy.refuse();
        proxy.cut();
      };
      if (when === "from the start") await away();
      const start = performance.now();
      const waiting = locker.acquire(held.key, { wait: "2s" }).catch((error: unknown) => error);
      if (when === "after a while") {
        await server.waiters(held.id, 1);
        await away();
      }
      const error = (await waiting) as LockNotAcquiredError;
      expect(error).toMatchObject({ code: "LOCK_NOT_ACQUIRED", reason: "wait-timeout" });
      expect(codesOf(error.cause)).toContain("ECONNREFUSED");
      expect(performance.now() - start).toBeGreaterThan(1_900);
      expect(performance.now() - start).toBeLessThan(5_000);
      expect(warnings.length).toBeGreaterThan(0);
    },
  );

  test("and comes back is waited for, at the start and midway, by every way to wait", async () => {
    await using proxy = await TcpProxy.start(server.url);
    await using held = await HeldByHand.on(server);
    await using locker = lockerOn(proxy.url);
    const ways = () => [
      locker.acquire(held.key, { wait: true }).then((lock) => lock.release()),
      locker.withLock(held.key, () => {}, { wait: true }),
      // Of several keys, one that is already held would be lost with its session.
      locker.acquireAll([held.key], { wait: true }).then((group) => group.release()),
      locker.acquire(held.key, { wait: true, mode: "shared" }).then((lock) => lock.release()),
    ];
    await proxy.refuse();
    const waits = ways();
    for (const wait of waits) wait.catch(() => {}); // Until all are awaited.
    await proxy.accept();
    await until(async () => (await server.pidsOf(held.id, "waiting")).length > 0, { deadline: 15_000 });
    for (let times = 0; times < 3; times += 1) {
      proxy.cut();
      await until(async () => (await server.pidsOf(held.id, "waiting")).length > 0, { deadline: 15_000 });
    }
    await held.release();
    await Promise.all(waits);
  }, 40_000);

  test("is not waited for without a `wait`: a try rejects at once", async () => {
    await using proxy = await TcpProxy.start(server.url);
    await proxy.refuse();
    await using locker = lockerOn(proxy.url);
    await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ code: "DATABASE_ERROR" });
  });
});

describe("a server whose connections are all taken", () => {
  const takeAll = async (): Promise<Session[]> => {
    const others: Session[] = [];
    for (;;) {
      const other = await server.connect().catch((error: { code?: string }) => error);
      if ("code" in other) {
        expect(other).toMatchObject({ code: "53300" });
        return others;
      }
      others.push(other as Session);
    }
  };

  test("is waited for until the time has passed, with that as the cause", async () => {
    await using held = await HeldByHand.on(server);
    await using locker = lockerOn(server.url);
    await server.rows("select 1");
    const others = await takeAll();
    const error = await locker.acquire(held.key, { wait: "1s" }).catch((error: unknown) => error);
    expect(error).toMatchObject({ reason: "wait-timeout" });
    expect(codesOf((error as Error).cause)).toContain("53300");
    await Promise.all(others.map((other) => other.end()));
  });

  test("lets callers wait in it as soon as one is free", async () => {
    await using held = await HeldByHand.on(server);
    await using locker = lockerOn(server.url);
    await server.rows("select 1");
    const others = await takeAll();
    const waiting = locker.acquire(held.key, { wait: true });
    waiting.catch(() => {});
    const start = performance.now();
    await until(() => performance.now() - start > 500);
    await Promise.all(others.map((other) => other.end()));
    await server.waiters(held.id, 1);
    await held.release();
    await (await waiting).release();
  });

  test("gives the lock to a waiter that has a connection with another lock on it", async () => {
    await using held = await HeldByHand.on(server);
    await using fleet = await Fleet.start(1, server.url);
    const other = await fleet.first.acquire(uniqueKey(), { autoRefresh: true });
    await server.rows("select 1");
    const others = await takeAll();
    const waiting = fleet.first.acquire(held.key, { wait: true });
    waiting.catch(() => {});
    await server.rows("select pg_sleep(0.5)");
    await held.release();
    await (await waiting).release();
    await other.release();
    await Promise.all(others.map((one) => one.end()));
  });
});

test("a pool whose connections are all checked out is waited for", async () => {
  await using held = await HeldByHand.on(server);
  const pool = createPool({ connectionString: server.url, max: 1 });
  await using locker = createLocker({ pool, connWaitTimeout: "100ms" });
  const taken = await pool.connect();
  const waiting = locker.acquire(held.key, { wait: true });
  waiting.catch(() => {});
  const short = await locker.acquire(uniqueKey(), { wait: "600ms" }).catch((error: unknown) => error);
  // That is, if it needed the pool: a free lock may be granted without.
  if (short instanceof Error) expect(short).toMatchObject({ reason: "wait-timeout" });
  else await (short as { release(): Promise<void> }).release();
  taken.release();
  await held.release();
  await (await waiting).release();
});

describe("a fault that waiting can't mend rejects at once:", () => {
  const rejected = async (locker: PostgresLocker): Promise<unknown> => {
    const start = performance.now();
    const error = await locker.acquire(uniqueKey(), { wait: "30s" }).catch((error: unknown) => error);
    expect(performance.now() - start).toBeLessThan(5_000);
    expect(error).toBeInstanceOf(Error);
    expect(`${(error as Error).message} ${(error as Error).stack}`).not.toContain("s3cret");
    return error;
  };

  test("a wrong password", async () => {
    const role = uniqueKey("role").replace(":", "_");
    await server.rows(`create role ${role} login password 'right' in role password_required`);
    await using locker = lockerOn(urlWith({ user: role, password: "s3cret" }));
    expect(await rejected(locker)).toMatchObject({ code: "DATABASE_ERROR", sqlState: "28P01" });
  });

  test("no such role, no such database", async () => {
    await using unknown = lockerOn(urlWith({ user: "nobody_at_all" }));
    expect(await rejected(unknown)).toMatchObject({ sqlState: "28000" });
    await using nowhere = lockerOn(urlWith({ database: "no_such_database" }));
    expect(await rejected(nowhere)).toMatchObject({ sqlState: "3D000" });
  });

  test.skipIf(isOverPostgresJs)("a pool that has been ended", async () => {
    const pool = createPool({ connectionString: server.url });
    await using locker = createLocker({ pool });
    await (await locker.acquire(uniqueKey())).release();
    await pool.end();
    expect(await rejected(locker)).toMatchObject({ code: "DATABASE_ERROR" });
    const dedicated = createLocker({ pool, sessions: "dedicated" });
    expect(await rejected(dedicated)).toMatchObject({ code: "DATABASE_ERROR" });
    const inTransaction = locker.withTransaction(uniqueKey(), async () => {}, { wait: true });
    await expect(inTransaction).rejects.toMatchObject({ code: "DATABASE_ERROR" });
    await dedicated.close();
  });

  test("a database that one may not connect to", async () => {
    const [role, database] = ["role", "database"].map((prefix) => uniqueKey(prefix).replace(":", "_"));
    await server.rows(`create role ${role} login`);
    await server.rows(`create database ${database}`);
    await server.rows(`revoke connect on database ${database} from public`);
    await using locker = lockerOn(urlWith({ user: role as string, database: database as string }));
    expect(await rejected(locker)).toMatchObject({ sqlState: "42501" });
    await server.rows(`drop database ${database}`);
  });

  test.each(["transaction", "session"] as const)(
    "a pooler in %s mode, which keeps no session (where pgbouncer is installed)",
    async (mode) => {
      if (!PgBouncer.installed) return;
      await using bouncer = await PgBouncer.start({ url: server.url, mode });
      await using locker = lockerOn(bouncer.url);
      expect(await rejected(locker)).toMatchObject({ code: "POOLER_DETECTED" });
    },
  );

  test("a role that is shut out while it waits", async () => {
    await using held = await HeldByHand.on(server);
    const role = uniqueKey("role").replace(":", "_");
    await server.rows(`create role ${role} login`);
    await using locker = lockerOn(urlWith({ user: role }));
    const waiting = locker.acquire(held.key, { wait: "30s" }).catch((error: unknown) => error);
    await server.waiters(held.id, 1);
    await server.rows(`alter role ${role} nologin`);
    await server.rows("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", [role]);
    expect(await waiting).toMatchObject({ sqlState: "28000" });
  });
});

describe.skipIf(!PgBouncer.installed)("behind PgBouncer in session mode, if the locker is told so,", () => {
  test("a wait has the lock in its turn, and an abort ends it in the server", async () => {
    await using bouncer = await PgBouncer.start({ url: server.url, mode: "session" });
    await using held = await HeldByHand.on(server);
    await using locker = lockerOn(bouncer.url, { pooler: "session" });
    const aborting = new AbortController();
    const aborted = locker
      .acquire(held.key, { wait: true, signal: aborting.signal })
      .catch((error: unknown) => error);
    await server.waiters(held.id, 1);
    aborting.abort("enough");
    expect(await aborted).toBe("enough");
    await until(async () => (await server.pidsOf(held.id, "waiting")).length === 0);
    const waiting = locker.acquire(held.key, { wait: true });
    await server.waiters(held.id, 1);
    await held.release();
    await (await waiting).release();
    await until(async () => (await server.pidsOf(held.id, "granted")).length === 0);
  });

  test("a wait goes on after the pooler has died and come back", async () => {
    await using proxy = await TcpProxy.start(server.url);
    await using held = await HeldByHand.on(server);
    await using locker = lockerOn(proxy.url, { pooler: "session" });
    {
      await using bouncer = await PgBouncer.start({ url: server.url, mode: "session" });
      proxy.retarget(bouncer.url);
    }
    const waiting = locker.acquire(held.key, { wait: true });
    waiting.catch(() => {});
    await using again = await PgBouncer.start({ url: server.url, mode: "session" });
    proxy.retarget(again.url);
    await server.waiters(held.id, 1);
    await held.release();
    await (await waiting).release();
  });
});
