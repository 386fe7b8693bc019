import type { Socket } from "node:net";
import type pg from "pg";
import { describe, expect, test } from "vitest";
import { Child } from "../support/child.ts";
import {
  advisoryLocks,
  connect,
  databaseUrl,
  holdersOf,
  onServer,
  type Session,
  uniqueId,
  uniqueKey,
} from "../support/database.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// The facts about idle_session_timeout that a server-enforced TTL relies on, beyond those in postgres-behavior.test.ts. That a session
// outlives its time-out is shown by another session with the same time-out, which began later and has already been ended.

/** Milliseconds of tolerance. The server counts by the wall clock, which may be slewed. */
const SLEW = 2;

// https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-IDLE-SESSION-TIMEOUT
describe("a TTL that is set in the statement that locks, before the lock in a CASE", () => {
  test("frees the lock of an idle session, and tells the client with 57P05", async () => {
    const id = uniqueId();
    const session = await connect();
    const end = endOf(session);
    expect(await lockFor(session, 100, id)).toBe(true);
    expect((await end).code).toBe("57P05");
    await until(async () => (await holdersOf(id)).length === 0);
  });

  test("leaves no lock when it is refused", async () => {
    const session = await connect();
    await expect(lockFor(session, 2 ** 31, uniqueId())).rejects.toMatchObject({ code: "22023" });
    expect(await advisoryLocks()).toEqual([]);
  });

  test("is in force although the lock is refused", async () => {
    const id = uniqueId();
    await lockFor(await connect(), 0, id);
    const session = await connect();
    const end = endOf(session);
    expect(await lockFor(session, 100, id)).toBe(false);
    expect((await end).code).toBe("57P05");
  });
});

describe("a TTL that is changed", () => {
  test("to a longer one is longer at once", async () => {
    const id = uniqueId();
    const session = await connect();
    await lockFor(session, 1000, id);
    await setTtl(session, "60000");
    await anotherEnds(1000);
    expect(await holdersOf(id)).toEqual([session.processID]);
  });

  test("to a shorter one is shorter at once", async () => {
    const id = uniqueId();
    const session = await connect();
    const end = endOf(session);
    await lockFor(session, 3_600_000, id);
    await setTtl(session, "100");
    expect((await end).code).toBe("57P05");
    await until(async () => (await holdersOf(id)).length === 0);
  });

  test("to 0 no longer ends the session", async () => {
    const id = uniqueId();
    const session = await connect();
    await lockFor(session, 1000, id);
    await setTtl(session, "0");
    await anotherEnds(1000);
    expect(await holdersOf(id)).toEqual([session.processID]);
  });

  test("to a value that is refused stays as it was", async () => {
    const session = await connect();
    await setTtl(session, "60000");
    await expect(setTtl(session, "2147483648")).rejects.toMatchObject({ code: "22023" });
    const { rows } = await session.query("select current_setting('idle_session_timeout') as value");
    expect(rows).toEqual([{ value: "1min" }]);
  });

  test("in a transaction that is rolled back is as it was before", async () => {
    const session = await connect();
    await setTtl(session, "60000");
    await session.query("begin");
    await setTtl(session, "1000");
    await session.query("rollback");
    const { rows } = await session.query("select current_setting('idle_session_timeout') as value");
    expect(rows).toEqual([{ value: "1min" }]);
  });
});

describe("a TTL that is text without a unit", () => {
  // Read from pg_settings, which shows milliseconds, and in the same statement, because 1 ms may be over before the next.
  test.each([
    ["0", "0"],
    ["0.4", "0"],
    ["0.6", "1"],
    ["1", "1"],
    ["1000", "1000"],
  ])("of %s is %s ms", async (value, milliseconds) => {
    const session = await connect();
    const sql = `select case when set_config('idle_session_timeout', $1, false) is not null then
                   (select setting || unit from pg_settings where name = 'idle_session_timeout') end as value`;
    expect((await session.query(sql, [value])).rows).toEqual([{ value: `${milliseconds}ms` }]);
  });
});

describe("the timer of a TTL", () => {
  test("runs from the answer: it ends at the earliest one TTL after the sending", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const session = await connect({ connectionString: proxy.url });
    const end = endOf(session);
    proxy.delay(100);
    const sent = performance.now();
    await lockFor(session, 200, uniqueId());
    // 200 ms of TTL, and 100 ms each for the statement and for the message to arrive.
    expect((await end).at - sent).toBeGreaterThanOrEqual(400 - SLEW);
  });

  test("doesn't run during a statement, and starts anew after it", async () => {
    const id = uniqueId();
    const session = await connect();
    const end = endOf(session);
    await lockFor(session, 100, id);
    const sent = performance.now();
    const { rows } = await session.query("select pg_sleep(0.5), 'done' as value");
    expect(rows).toMatchObject([{ value: "done" }]);
    const { code, at } = await end;
    expect(code).toBe("57P05");
    expect(at - sent).toBeGreaterThanOrEqual(600 - SLEW);
  });

  test("doesn't run while the session waits for a lock in the server", async () => {
    const id = uniqueId();
    const holder = await connect();
    await lockFor(holder, 0, id);
    const waiter = await connect();
    await setTtl(waiter, "100");
    const waiting = waiter.query("select pg_advisory_lock($1)", [id]);
    await until(async () => (await advisoryLocks()).some((lock) => !lock.granted));
    await anotherEnds(100);
    const end = endOf(waiter);
    await holder.query("select pg_advisory_unlock($1)", [id]);
    await waiting;
    expect((await end).code).toBe("57P05");
  });

  test("isn't renewed by the notifications that the session gets", async () => {
    const id = uniqueId();
    const channel = uniqueKey().replace(":", "_");
    const [session, sender] = [await connect(), await connect()];
    let delivered = 0;
    session.on("notification", () => delivered++);
    await session.query(`listen ${channel}`);
    await lockFor(session, 400, id);
    await until(async () => {
      await sender.query("select pg_notify($1, '')", [channel]);
      return (await holdersOf(id)).length === 0;
    });
    expect(delivered).toBeGreaterThan(0);
  });

  test("doesn't run while the server writes notifications that nobody reads", async () => {
    const id = uniqueId();
    const channel = uniqueKey().replace(":", "_");
    const [session, sender] = [await connect(), await connect()];
    await session.query(`listen ${channel}`);
    await lockFor(session, 2000, id);
    streamOf(session).pause();
    try {
      // More than the sockets' buffers can hold.
      const flood = "select pg_notify($1, i || repeat('x', 7900)) from generate_series(1, 5000) i";
      await sender.query(flood, [channel]);
      await until(async () => (await waitEventOf(session)) === "ClientWrite");
      await anotherEnds(2000);
      expect(await holdersOf(id)).toEqual([session.processID]);
    } finally {
      streamOf(session).destroy();
    }
  });
});

// https://www.postgresql.org/docs/current/runtime-config-connection.html#GUC-TCP-KEEPALIVES-IDLE
describe("a setting of the link", () => {
  test.each([
    ["tcp_keepalives_idle", "2147483647"],
    ["tcp_keepalives_interval", "2147483647"],
    ["tcp_keepalives_count", "2147483647"],
  ])("that the server's system doesn't take (%s) is no error: the statement goes on", async (name, value) => {
    const session = await connect();
    const sql = "select pg_try_advisory_lock($1) as got, set_config($2, $3, false) as set";
    const id = uniqueId();
    const { rows } = await session.query<{ got: boolean; set: string }>(sql, [id, name, value]);
    expect([rows[0]?.got, rows[0]?.set === value]).toEqual([true, false]);
    expect(await holdersOf(id)).toEqual([session.processID]);
  });
});

describe("a TTL frees the lock by the server alone", () => {
  test("of a client that reads nothing", async () => {
    const id = uniqueId();
    const session = await connect();
    await lockFor(session, 100, id);
    streamOf(session).pause();
    try {
      await until(async () => (await holdersOf(id)).length === 0);
      expect(streamOf(session).readableEnded).toBe(false);
    } finally {
      streamOf(session).resume();
    }
  });

  test("of a client whose network drops every packet", async () => {
    const id = uniqueId();
    await using proxy = await TcpProxy.start(databaseUrl());
    const session = await connect({ connectionString: proxy.url });
    await lockFor(session, 200, id);
    proxy.freeze();
    // It keeps sending, but that renews nothing.
    const unheard = session.query("select 1").catch((error: unknown) => error);
    await until(async () => (await holdersOf(id)).length === 0);
    proxy.cut();
    expect(await unheard).toBeInstanceOf(Error);
  });

  test("of a process that is stopped with SIGSTOP", async () => {
    const url = new URL(databaseUrl());
    url.searchParams.set("options", "-c idle_session_timeout=2000");
    await using child = Child.start("no-error-listener.mjs", { env: { DATABASE_URL: url.href } });
    const { pid } = await child.message((message) => "pid" in message);
    const sessions = () => onServer("select from pg_stat_activity where pid = $1", [pid]);
    expect(await sessions()).toHaveLength(1);
    child.signal("SIGSTOP");
    await until(async () => (await sessions()).length === 0, { deadline: 10_000 });
  });
});

// https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-IDLE-IN-TRANSACTION-SESSION-TIMEOUT
describe("idle_in_transaction_session_timeout", () => {
  test("ends a session that idles in a transaction, where a TTL doesn't, with 25P03", async () => {
    const id = uniqueId();
    const session = await connect();
    const end = endOf(session);
    await session.query("begin");
    await session.query("set idle_in_transaction_session_timeout = 100");
    await lockFor(session, 1, id);
    expect((await end).code).toBe("25P03");
    await until(async () => (await holdersOf(id)).length === 0);
  });

  test("ends a session whose transaction has failed, too", async () => {
    const session = await connect();
    await session.query("set idle_in_transaction_session_timeout = 100");
    const end = endOf(session);
    await session.query("begin");
    await expect(session.query("select no_such_column")).rejects.toMatchObject({ code: "42703" });
    expect((await end).code).toBe("25P03");
  });

  test("doesn't end a session that idles outside of a transaction", async () => {
    const session = await connect();
    await session.query("set idle_in_transaction_session_timeout = 100");
    await anotherEnds(200);
    expect((await session.query("select 1 as value")).rows).toEqual([{ value: 1 }]);
  });
});

/** Sets the TTL (milliseconds) and tries the lock, in this order: the arms of a CASE are evaluated after its condition. */
async function lockFor(session: pg.Client, ttl: number, id: bigint): Promise<unknown> {
  const sql = `select case when set_config('idle_session_timeout', $2, false) is not null
                           then pg_try_advisory_lock($1) end as granted`;
  return (await session.query<{ granted: unknown }>(sql, [id, String(ttl)])).rows[0]?.granted;
}

async function setTtl(session: pg.Client, value: string): Promise<void> {
  await session.query("select set_config('idle_session_timeout', $1, false)", [value]);
}

/** Returns how and when (by the monotonic clock) the client hears of the end of its session. */
function endOf(session: Session): Promise<{ code: string | undefined; at: number }> {
  return new Promise((resolve) => {
    session.once("error", ({ code }: pg.DatabaseError) => resolve({ code, at: performance.now() }));
  });
}

/** Starts a session with this TTL (milliseconds), and resolves when the TTL has ended it. */
async function anotherEnds(ttl: number): Promise<void> {
  const another = await connect();
  const end = endOf(another);
  await setTtl(another, String(ttl));
  expect((await end).code).toBe("57P05");
}

async function waitEventOf(session: Session): Promise<string | undefined> {
  const sql = "select wait_event from pg_stat_activity where pid = $1";
  return (await onServer<{ wait_event: string }>(sql, [session.processID]))[0]?.wait_event;
}

function streamOf(session: Session): Socket {
  return (session as unknown as { connection: { stream: Socket } }).connection.stream;
}
