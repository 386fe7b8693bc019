import type pg from "pg";
import { beforeAll, describe, expect, test } from "vitest";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { connect, createRole, onServer, uniqueId } from "../support/database.ts";
import { startServer } from "../support/start-server.ts";
import { until } from "../support/until.ts";

// The facts that a fencing token relies on, beyond those in postgres-behavior.test.ts and failover-behavior.test.ts. The token has the
// timeline in the upper 16 bits of a bigint, and the id of the lock statement's own transaction in the lower 48.

const MESSAGE = "pg_logical_emit_message(true, 'pg-locker', '')";
const TIMELINE = `('x' || substr(pg_walfile_name(${MESSAGE}), 1, 8))::bit(32)::int8`;
const XID = "pg_current_xact_id()::text::int8";
const DURABLE = "set_config('synchronous_commit', 'on', true) is not null";
const DURABLE_IF_OFF = `case current_setting('synchronous_commit') when 'off' then ${DURABLE} else true end`;

/** Draws a token in the statement that tries for the lock; NULL if the lock isn't granted. */
const LOCK = `select case when ${DURABLE} then
                case when pg_try_advisory_lock($1) then (${TIMELINE} << 48) | ${XID} end end as value`;

const TOKEN = `select case when ${DURABLE} then (${TIMELINE} << 48) | ${XID} end as value`;

describe("a token", () => {
  test("is larger for each next holder, whichever session that is", async () => {
    const id = uniqueId();
    const tokens: bigint[] = [];
    const contenders = [await connect(), await connect(), await connect(), await connect()];
    await Promise.all(
      contenders.map(async (session) => {
        for (let round = 0; round < 20; round++) {
          const token = await until(() => big(session, LOCK, id), { interval: 1 });
          tokens.push(token);
          await session.query("select pg_advisory_unlock($1)", [id]);
        }
      }),
    );
    expect(tokens).toHaveLength(80);
    expect(tokens).toEqual([...new Set(tokens)].sort((a, b) => (a < b ? -1 : 1)));
  });

  test("may be smaller than its predecessor's if the transaction had an id before", async () => {
    const id = uniqueId();
    const [early, late] = [await connect(), await connect()];
    await early.query("begin");
    await early.query("select pg_current_xact_id()");
    const predecessor = await big(late, LOCK, id);
    await late.query("select pg_advisory_unlock($1)", [id]);
    expect(await big(early, LOCK, id)).toBeLessThan(predecessor ?? 0n);
  });

  test("is NULL when the lock is refused, and no transaction id is drawn then", async () => {
    const id = uniqueId();
    await big(await connect(), LOCK, id);
    const session = await connect();
    await session.query("begin");
    expect(await value(session, LOCK, id)).toBeNull();
    expect(await value(session, "select pg_current_xact_id_if_assigned() as value")).toBeNull();
  });

  test("is drawn by a role without privileges, at the default wal_level", async () => {
    await using role = await createRole();
    const session = await connect({ connectionString: role.url });
    expect(await value(session, "select current_setting('wal_level') as value")).toBe("replica");
    expect(await big(session, LOCK, uniqueId())).toBeGreaterThan(2n ** 48n);
  });

  test("is drawn by functions that any role may execute", async () => {
    await using role = await createRole();
    const names = ["pg_logical_emit_message", "pg_walfile_name", "pg_current_xact_id", "set_config"];
    const sql = `select proname as name, bool_and(has_function_privilege($1, oid, 'execute')) as may
                   from pg_proc where proname = any ($2) group by proname`;
    const may = await onServer<{ name: string; may: boolean }>(sql, [role.name, names]);
    expect(Object.fromEntries(may.map((row) => [row.name, row.may]))).toEqual(
      Object.fromEntries(names.map((name) => [name, true])),
    );
  });

  test("is positive up to timeline 32767 and id 2^48-1, larger on a higher timeline", async () => {
    const session = await connect();
    const of = (timeline: number, xid: bigint) =>
      big(session, "select ($1::int8 << 48) | $2::int8 as value", timeline, xid);
    expect(await of(32767, 2n ** 48n - 1n)).toBe(2n ** 63n - 1n);
    expect(await of(2, 3n)).toBeGreaterThan((await of(1, 2n ** 48n - 1n)) ?? 0n);
    expect(await of(32768, 0n)).toBeLessThan(0n);
  });
});

describe("a transaction id", () => {
  test("is cast to a bigint by way of text", async () => {
    const session = await connect();
    const sql = "select '281474976710655'::xid8::text::int8 as value";
    expect(await big(session, sql)).toBe(2n ** 48n - 1n);
  });

  test("isn't cast to a bigint directly", async () => {
    const session = await connect();
    await expect(session.query("select '1'::xid8::int8")).rejects.toMatchObject({ code: "42846" });
  });
});

describe("eight hexadecimal digits", () => {
  test.each([
    ["00000001", 1n],
    ["0000000A", 10n],
    ["7FFFFFFF", 2n ** 31n - 1n],
    ["FFFFFFFF", 2n ** 32n - 1n],
  ])("%s are cast to the bigint %d", async (digits, number) => {
    const session = await connect();
    expect(await big(session, "select ('x' || $1::text)::bit(32)::int8 as value", digits)).toBe(number);
  });
});

describe("set_config of synchronous_commit for the transaction, in the statement itself", () => {
  test("is gone when the statement is done", async () => {
    const session = await connect();
    await session.query("set synchronous_commit = off");
    await big(session, TOKEN);
    expect(await value(session, "select current_setting('synchronous_commit') as value")).toBe("off");
  });

  test.each([
    ["replaces a stricter remote_apply", DURABLE, "on"],
    ["leaves remote_apply alone when it is for `off` only", DURABLE_IF_OFF, "remote_apply"],
  ])("%s", async (_does, condition, expected) => {
    const session = await connect();
    await session.query("set synchronous_commit = remote_apply");
    const sql = `select case when ${condition} then current_setting('synchronous_commit') end as value`;
    expect(await value(session, sql)).toBe(expected);
  });
});

describe("with a slow WAL writer, for a role whose synchronous_commit is off,", () => {
  let server: PostgresServer;
  let roleUrl: string;

  beforeAll(async () => {
    const settings = { wal_writer_delay: "10s", autovacuum: "off" };
    server = await startServer({ settings });
    roleUrl = server.url.replace("postgres@", "plain@");
    const session = await connect({ connectionString: server.url });
    await session.query("create role plain login");
    await session.query("alter role plain set synchronous_commit = off");
    await session.end();
    return () => server[Symbol.asyncDispose]();
  });

  test("a statement that sets it to on is flushed when it answers", async () => {
    const [session, other] = await sessions();
    expect(await value(session, "select current_setting('synchronous_commit') as value")).toBe("off");
    for (let round = 0; round < 20; round++) {
      const lsn = await value(session, `select case when ${DURABLE} then ${MESSAGE} end as value`);
      expect(await isFlushed(other, lsn)).toBe(true);
    }
  });

  test("a statement that doesn't is not, sooner or later", async () => {
    const [session, other] = await sessions();
    await until(async () => {
      const lsn = await value(session, `select ${MESSAGE} as value`);
      return !(await isFlushed(other, lsn));
    });
  });

  test.each(["immediate", "kill"] as const)("the token is larger after a crash (%s)", async (how) => {
    for (let round = 0; round < 3; round++) {
      const before = await tokenAt(roleUrl);
      await crash(how);
      expect(await tokenAt(roleUrl)).toBeGreaterThan(before);
    }
  });

  test.each([
    ["a message, but in a commit that is not flushed", `select ${TIMELINE}, ${XID} as value`],
    ["a flushed commit, but no message", `select case when ${DURABLE} then ${XID} end as value`],
  ])("a transaction id with %s is drawn again after a crash, sooner or later", async (_what, sql) => {
    const drawn = async () => (await big(await connect({ connectionString: roleUrl }), sql)) ?? 0n;
    await until(
      async () => {
        // The first statements may wake the WAL writer.
        for (let i = 0; i < 3; i++) await drawn();
        const before = await drawn();
        await crash("immediate");
        return (await drawn()) <= before;
      },
      { deadline: 15_000 },
    );
  });

  async function sessions(): Promise<[role: pg.Client, superuser: pg.Client]> {
    return [await connect({ connectionString: roleUrl }), await connect({ connectionString: server.url })];
  }

  async function crash(how: "immediate" | "kill"): Promise<void> {
    if (how === "kill") await server.kill();
    else await server.stop({ mode: "immediate" });
    await server.resume();
  }
});

describe("of a primary and its standby", () => {
  let primary: PostgresServer;
  let standby: PostgresServer;

  beforeAll(async () => {
    primary = await startServer();
    standby = await primary.standby();
    return async () => {
      await standby[Symbol.asyncDispose]();
      await primary[Symbol.asyncDispose]();
    };
  });

  test("the primary's timeline is 1 when it is new, and the one of its control file", async () => {
    const session = await connect({ connectionString: primary.url });
    expect(await big(session, `select ${TIMELINE} as value`)).toBe(1n);
    expect(await controlTimeline(session)).toBe(1);
  });

  test.each([
    ["a transaction id", XID, "25006"],
    ["a message", MESSAGE, "XX000"],
    ["a WAL file's name", "pg_walfile_name('0/3000000')", "55000"],
    ["a WAL position", "pg_current_wal_lsn()", "55000"],
  ])("the standby doesn't give %s: %s fails with %s", async (_what, expression, code) => {
    const session = await connect({ connectionString: standby.url });
    await expect(session.query(`select ${expression}`)).rejects.toMatchObject({ code });
  });

  test("the standby keeps the lock of the statement whose token fails", async () => {
    const session = await connect({ connectionString: standby.url });
    await expect(session.query(LOCK, [1])).rejects.toMatchObject({ code: "XX000" });
    const sql = "select count(*)::int as value from pg_locks where locktype = 'advisory'";
    expect(await value(session, sql)).toBe(1);
  });

  test("after a promotion, the new primary's tokens are larger than any of the old", async () => {
    // On sessions from before the promotion: their knowledge of the timeline must not be stale.
    const [old, promoted] = [
      await connect({ connectionString: primary.url }),
      await connect({ connectionString: standby.url }),
    ];
    const before = await big(old, TOKEN);
    await standby.promote();
    const fresh = await tokenAt(standby.url);
    for (let i = 0; i < 100; i++) await big(old, TOKEN);
    const oldest = (await big(old, TOKEN)) ?? 0n;
    expect([before, oldest, fresh].map((token) => (token ?? 0n) >> 48n)).toEqual([1n, 1n, 2n]);
    expect(xidOf(oldest)).toBeGreaterThan(xidOf(fresh));
    expect(fresh).toBeGreaterThan(oldest);
    expect(((await big(promoted, TOKEN)) ?? 0n) >> 48n).toBe(2n);
    await promoted.query("checkpoint");
    expect([await controlTimeline(old), await controlTimeline(promoted)]).toEqual([1, 2]);
  });
});

async function value(session: pg.Client, sql: string, ...values: unknown[]): Promise<unknown> {
  return (await session.query<{ value: unknown }>(sql, values)).rows[0]?.value;
}

/** The token as a bigint; `undefined` for NULL. */
async function big(session: pg.Client, sql: string, ...values: unknown[]): Promise<bigint | undefined> {
  const text = await value(session, sql, ...values);
  return typeof text === "string" ? BigInt(text) : undefined;
}

async function tokenAt(url: string): Promise<bigint> {
  const session = await connect({ connectionString: url });
  const token = await big(session, TOKEN);
  if (token === undefined) throw new Error("no token");
  return token;
}

function xidOf(token: bigint): bigint {
  return token & (2n ** 48n - 1n);
}

function isFlushed(session: pg.Client, lsn: unknown): Promise<unknown> {
  return value(session, "select pg_current_wal_flush_lsn() >= $1::pg_lsn as value", lsn);
}

function controlTimeline(session: pg.Client): Promise<unknown> {
  return value(session, "select timeline_id as value from pg_control_checkpoint()");
}
