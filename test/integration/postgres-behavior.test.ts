import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import { describe, expect, test } from "vitest";
import {
  advisoryLocks,
  connect,
  createRole,
  holdersOf,
  onServer,
  type Session,
  uniqueId,
  urlWith,
} from "../support/database.ts";
import { until } from "../support/until.ts";

// The facts about PostgreSQL that the code relies on, each proven on the real server, so that if one changes, a test here fails first. The
// facts about the driver are in driver-behavior.test.ts, those about a standby and a crash in failover-behavior.test.ts.

// https://www.postgresql.org/docs/current/explicit-locking.html#ADVISORY-LOCKS
describe("a session advisory lock", () => {
  test("is granted twice to the same session, and then needs two unlocks", async () => {
    const id = uniqueId();
    const session = await connect();
    expect([await tryLock(session, id), await tryLock(session, id)]).toEqual([true, true]);
    expect(await unlock(session, id)).toBe(true);
    expect(await holdersOf(id)).toEqual([session.processID]);
    expect(await unlock(session, id)).toBe(true);
    expect(await holdersOf(id)).toEqual([]);
  });

  test("is refused to another session", async () => {
    const id = uniqueId();
    expect(await tryLock(await connect(), id)).toBe(true);
    expect(await tryLock(await connect(), id)).toBe(false);
  });

  test("in shared mode is granted to many, and refuses an exclusive one", async () => {
    const id = uniqueId();
    for (const session of [await connect(), await connect()]) {
      expect(await one(session, "select pg_try_advisory_lock_shared($1) as value", id)).toBe(true);
    }
    expect(await tryLock(await connect(), id)).toBe(false);
  });

  test("that is not held unlocks as false, with a warning and no error", async () => {
    const session = await connect();
    const warnings: (string | undefined)[] = [];
    session.on("notice", (notice) => warnings.push(notice.code));
    expect(await unlock(session, uniqueId())).toBe(false);
    expect(warnings).toEqual(["01000"]);
  });

  test("held by another session unlocks as false", async () => {
    const id = uniqueId();
    const holder = await connect();
    await tryLock(holder, id);
    expect(await unlock(await connect(), id)).toBe(false);
    expect(await holdersOf(id)).toEqual([holder.processID]);
  });

  test("survives a failed statement and a rollback", async () => {
    const id = uniqueId();
    const session = await connect();
    await session.query("begin");
    await tryLock(session, id);
    await expect(session.query("select no_such_column")).rejects.toMatchObject({ code: "42703" });
    await session.query("rollback");
    expect(await holdersOf(id)).toEqual([session.processID]);
  });

  test("may be held although the statement that asked for it failed", async () => {
    const id = uniqueId();
    const session = await connect();
    await session.query("set statement_timeout = 50");
    const attempt = session.query("select pg_try_advisory_lock($1), pg_sleep(60)", [id]);
    await expect(attempt).rejects.toMatchObject({ code: "57014" });
    expect(await holdersOf(id)).toEqual([session.processID]);
  });

  test("is kept when the failed statement that took it has its settings reverted", async () => {
    const id = uniqueId();
    const session = await connect();
    await session.query("set statement_timeout = 50");
    const sql =
      "select set_config('idle_session_timeout', '60s', false), pg_try_advisory_lock($1), pg_sleep(60)";
    await expect(session.query(sql, [id])).rejects.toMatchObject({ code: "57014" });
    expect(await holdersOf(id)).toEqual([session.processID]);
    expect(await setting(session, "idle_session_timeout")).toBe("0");
  });

  test("is freed by DISCARD ALL", async () => {
    const id = uniqueId();
    const session = await connect();
    await tryLock(session, id);
    await session.query("discard all");
    expect(await holdersOf(id)).toEqual([]);
  });

  test("is kept by RESET ALL, which drops the session's idle_session_timeout", async () => {
    const id = uniqueId();
    const session = await connect();
    await session.query("set idle_session_timeout = '60s'");
    await tryLock(session, id);
    await session.query("reset all");
    expect(await holdersOf(id)).toEqual([session.processID]);
    expect(await setting(session, "idle_session_timeout")).toBe("0");
  });

  test("is of one database", async () => {
    const id = uniqueId();
    expect(await tryLock(await connect(), id)).toBe(true);
    const elsewhere = await connect({ connectionString: urlWith({ database: "postgres" }) });
    expect(await tryLock(elsewhere, id)).toBe(true);
  });

  test("of a bigint is not the one of the same pair of ints", async () => {
    const [pair, single] = [await connect(), await connect()];
    expect(await one(pair, "select pg_try_advisory_lock(0, 5) as value")).toBe(true);
    expect(await tryLock(single, 5n)).toBe(true);
    const locks = await advisoryLocks();
    expect(locks.map((lock) => [lock.space, lock.id]).sort()).toEqual([
      ["bigint", 5n],
      ["int-pair", 5n],
    ]);
  });

  test.each([1n, -1n, 2n ** 63n - 1n, -(2n ** 63n), 2n ** 32n, -(2n ** 31n), 2n ** 53n + 1n])(
    "of id %d is in pg_locks with classid and objid that rebuild it",
    async (id) => {
      const session = await connect();
      await tryLock(session, id);
      expect(await advisoryLocks()).toEqual([
        { id, space: "bigint", pid: session.processID, mode: "ExclusiveLock", granted: true },
      ]);
    },
  );

  test("of no id is NULL when tried, and nothing at all when waited for", async () => {
    const session = await connect();
    expect(await one(session, "select pg_try_advisory_lock(null::bigint) as value")).toBeNull();
    await session.query("select pg_advisory_lock(null::bigint)");
    expect(await advisoryLocks()).toEqual([]);
  });

  test("is not taken in the branch of a CASE that is not reached", async () => {
    const session = await connect();
    const sql = "select case when $2::bool then pg_try_advisory_lock($1) end as value";
    expect(await one(session, sql, uniqueId(), false)).toBeNull();
    expect(await advisoryLocks()).toEqual([]);
  });

  test("of a transaction is freed by the end of its statement in autocommit", async () => {
    const session = await connect();
    expect(await one(session, "select pg_try_advisory_xact_lock($1) as value", uniqueId())).toBe(true);
    expect(await advisoryLocks()).toEqual([]);
  });

  test("is freed when the session is terminated", async () => {
    const id = uniqueId();
    const session = await connect();
    await tryLock(session, id);
    await onServer("select pg_terminate_backend($1)", [session.processID]);
    await until(async () => (await holdersOf(id)).length === 0);
  });
});

describe("a select list", () => {
  test("is evaluated from left to right: it can save a setting, change it and lock", async () => {
    const id = uniqueId();
    const session = await connect({ application_name: "before" });
    const { rows } = await session.query(
      `select current_setting('application_name') as old,
              set_config('application_name', 'after', false) as new,
              current_setting('application_name') as now,
              pg_try_advisory_lock($1) as granted`,
      [id],
    );
    expect(rows).toEqual([{ old: "before", new: "after", now: "after", granted: true }]);
    expect(await setting(session, "application_name")).toBe("after");
  });
});

// https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-IDLE-SESSION-TIMEOUT
describe("idle_session_timeout", () => {
  test("ends an idle session, and so frees its lock, with 57P05", async () => {
    const id = uniqueId();
    const session = await connect();
    const code = new Promise((resolve) =>
      session.once("error", (error: pg.DatabaseError) => resolve(error.code)),
    );
    await lockFor(session, "100ms", id);
    expect(await code).toBe("57P05");
    await until(async () => (await holdersOf(id)).length === 0);
  });

  test("starts anew with every statement, be it `select 1`, an empty one or set_config", async () => {
    const ttl = 600;
    const statements = ["select 1", "", `select set_config('idle_session_timeout', '${ttl}ms', false)`];
    const sessions = await Promise.all(statements.map(() => connect()));
    for (const session of sessions) await lockFor(session, `${ttl}ms`, uniqueId());
    const end = performance.now() + 2 * ttl;
    while (performance.now() < end) {
      await Promise.all(sessions.map((session, i) => session.query(statements[i] ?? "")));
      await delay(ttl / 12);
    }
    expect(await advisoryLocks()).toHaveLength(statements.length);
  });

  test("doesn't end a session inside a transaction", async () => {
    const id = uniqueId();
    const session = await connect();
    await session.query("begin");
    await lockFor(session, "50ms", id);
    // Two other sessions with the same time-out come and go, one after the other.
    for (let i = 0; i < 2; i++) {
      const other = uniqueId();
      await lockFor(await connect(), "50ms", other);
      await until(async () => (await holdersOf(other)).length === 0);
    }
    expect(await holdersOf(id)).toEqual([session.processID]);
  });

  test("of a role frees the lock of a session that didn't ask for it", async () => {
    await using role = await createRole({ settings: { idle_session_timeout: "100ms" } });
    const id = uniqueId();
    await tryLock(await connect({ connectionString: role.url }), id);
    await until(async () => (await holdersOf(id)).length === 0);
  });

  test("of a role is overruled by the session's own", async () => {
    await using role = await createRole({ settings: { idle_session_timeout: "300ms" } });
    const [inherits, overrules] = [uniqueId(), uniqueId()];
    const session = await connect({ connectionString: role.url });
    await lockFor(session, "0", overrules);
    await tryLock(await connect({ connectionString: role.url }), inherits);
    await until(async () => (await holdersOf(inherits)).length === 0);
    expect(await holdersOf(overrules)).toEqual([session.processID]);
  });

  test.each([
    ["0.4ms", "0"],
    ["0.5ms", "0"],
    ["0.6ms", "1ms"],
    ["400us", "0"],
    ["1500", "1500ms"],
    ["1.5s", "1500ms"],
    ["2147483647", "2147483647ms"],
  ])("set to %s is %s: a part of a millisecond is rounded, and 0 is disabled", async (value, actual) => {
    const session = await connect();
    // Read in the same statement, because a session with 1 ms may be gone before the next.
    const sql = "select set_config('idle_session_timeout', $1, false) as value";
    expect(await one(session, sql, value)).toBe(actual);
  });

  test.each(["-1", "2147483648", "30d", "10 sec"])("can't be %s", async (value) => {
    const session = await connect();
    await expect(setConfig(session, "idle_session_timeout", value)).rejects.toMatchObject({ code: "22023" });
  });

  test("can be set by any role, at the start of the session already", async () => {
    await using role = await createRole();
    const session = await connect({ connectionString: role.url, options: "-c idle_session_timeout=1500" });
    expect(await setting(session, "idle_session_timeout")).toBe("1500ms");
  });
});

describe("application_name", () => {
  test("is cut to 63 bytes", async () => {
    const session = await connect();
    expect(await setConfig(session, "application_name", "x".repeat(80))).toBe("x".repeat(63));
    expect(await applicationName(session)).toBe("x".repeat(63));
  });

  test("is cut at a character, not inside of one", async () => {
    const session = await connect();
    await setConfig(session, "application_name", `${"x".repeat(62)}é`);
    expect(await applicationName(session)).toBe("x".repeat(62));
  });

  test("of a start-up packet is cut, too, and doesn't fail", async () => {
    const session = await connect({ application_name: "x".repeat(80) });
    expect(await applicationName(session)).toBe("x".repeat(63));
  });

  test("has nothing but printable ASCII when others read it", async () => {
    const session = await connect();
    await setConfig(session, "application_name", "clé");
    expect(await applicationName(session)).toMatch(/^cl(\?\?|\\xc3\\xa9)$/);
  });
});

describe("pg_current_xact_id", () => {
  test("grows from one holder to the next, in a statement that writes a logical message", async () => {
    const tokens: bigint[] = [];
    for (const session of [await connect(), await connect(), await connect()]) {
      const sql = "select pg_logical_emit_message(true, 'test', ''), pg_current_xact_id()::text as xid";
      tokens.push(BigInt((await session.query<{ xid: string }>(sql)).rows[0]?.xid ?? 0));
    }
    expect(tokens[1]).toBeGreaterThan(tokens[0] ?? 0n);
    expect(tokens[2]).toBeGreaterThan(tokens[1] ?? 0n);
  });

  test("is read by a role without privileges, and so is the timeline", async () => {
    await using role = await createRole();
    const session = await connect({ connectionString: role.url });
    const sql = `select pg_current_xact_id() > '0'::xid8 as drawn,
                        substr(pg_walfile_name(pg_logical_emit_message(true, 'test', '')), 1, 8) as timeline`;
    expect((await session.query(sql)).rows).toEqual([
      { drawn: true, timeline: expect.stringMatching(/^[0-9A-F]{8}$/) },
    ]);
  });
});

async function one(session: pg.Client, sql: string, ...values: unknown[]): Promise<unknown> {
  return (await session.query<{ value: unknown }>(sql, values)).rows[0]?.value;
}

function tryLock(session: pg.Client, id: bigint): Promise<unknown> {
  return one(session, "select pg_try_advisory_lock($1) as value", id);
}

function unlock(session: pg.Client, id: bigint): Promise<unknown> {
  return one(session, "select pg_advisory_unlock($1) as value", id);
}

function setting(session: pg.Client, name: string): Promise<unknown> {
  return one(session, "select current_setting($1) as value", name);
}

function setConfig(session: pg.Client, name: string, value: string): Promise<unknown> {
  return one(session, "select set_config($1, $2, false) as value", name, value);
}

async function lockFor(session: pg.Client, idleSessionTimeout: string, id: bigint): Promise<void> {
  const sql = "select set_config('idle_session_timeout', $2, false), pg_try_advisory_lock($1) as value";
  expect(await one(session, sql, id, idleSessionTimeout)).toBe(true);
}

async function applicationName(session: Session): Promise<string | undefined> {
  const sql = "select application_name from pg_stat_activity where pid = $1";
  return (await onServer<{ application_name: string }>(sql, [session.processID]))[0]?.application_name;
}
