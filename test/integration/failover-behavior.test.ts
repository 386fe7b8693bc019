import type pg from "pg";
import { beforeAll, describe, expect, test } from "vitest";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { connect } from "../support/database.ts";
import { startServer } from "../support/start-server.ts";

// The facts about a standby, a promotion and a crash that the code relies on, on servers of this file's own.

const TOKEN = `select pg_current_xact_id()::text as xid,
                      substr(pg_walfile_name(pg_logical_emit_message(true, 'test', '')), 1, 8) as timeline`;

interface Token {
  readonly xid: bigint;
  readonly timeline: number;
}

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

describe("a hot standby", () => {
  test("says that it is one, in pg_is_in_recovery and in_hot_standby", async () => {
    expect(await onBoth("select pg_is_in_recovery() as value")).toEqual([false, true]);
    expect(await onBoth("select current_setting('in_hot_standby') as value")).toEqual(["off", "on"]);
  });

  test("grants an advisory lock that is held on its primary", async () => {
    expect(await onBoth("select pg_try_advisory_lock(42) as value")).toEqual([true, true]);
  });

  test("draws no token", async () => {
    const session = await connect({ connectionString: standby.url });
    await expect(session.query("select pg_current_xact_id()")).rejects.toMatchObject({ code: "25006" });
  });
});

describe("a crash", () => {
  test("doesn't make the next token smaller, when the statement wrote a logical message", async () => {
    const before = await token(primary);
    await primary.restart({ mode: "immediate" });
    const after = await token(primary);
    expect(after.timeline).toBe(before.timeline);
    expect(after.xid).toBeGreaterThan(before.xid);
  });
});

describe("a promotion", () => {
  test("keeps session and lock, ends the recovery and the timeline at once", async () => {
    const before = await token(primary);
    const session = await connect({ connectionString: standby.url });
    await session.query("select pg_try_advisory_lock(43)");
    await standby.promote();
    expect(await value(session, "select pg_is_in_recovery() as value")).toBe(false);
    expect(
      await value(session, "select count(*)::int as value from pg_locks where locktype = 'advisory'"),
    ).toBe(1);
    const after = await token(standby);
    expect(after.timeline).toBe(before.timeline + 1);
  });
});

async function onBoth(sql: string): Promise<unknown[]> {
  const sessions = [primary, standby].map(({ url }) => connect({ connectionString: url }));
  return await Promise.all(sessions.map(async (session) => await value(await session, sql)));
}

async function value(session: pg.Client, sql: string): Promise<unknown> {
  return (await session.query<{ value: unknown }>(sql)).rows[0]?.value;
}

async function token(server: PostgresServer): Promise<Token> {
  const session = await connect({ connectionString: server.url });
  const { rows } = await session.query<{ xid: string; timeline: string }>(TOKEN);
  return { xid: BigInt(rows[0]?.xid ?? 0), timeline: Number.parseInt(rows[0]?.timeline ?? "", 16) };
}
