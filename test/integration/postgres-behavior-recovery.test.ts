import { beforeAll, describe, expect, test } from "vitest";
import { askLockTable, dateLockTable, type LockTableDated } from "../../src/postgres/sql-recovery.ts";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { connect, type Session } from "../support/database.ts";
import { startServer } from "../support/start-server.ts";
import { until } from "../support/until.ts";

// The facts about restarts, crashes and promotions that the recovery grace relies on, as seen by a role that may only log in. On servers of
// this file's own.

let primary: PostgresServer;
let standby: PostgresServer;

beforeAll(async () => {
  primary = await startServer();
  const session = await connect({ connectionString: primary.url });
  await session.query("create role plain login");
  await session.end();
  standby = await primary.standby();
  return async () => {
    await standby[Symbol.asyncDispose]();
    await primary[Symbol.asyncDispose]();
  };
});

/** What shows the age of the lock table. */
interface Evidence {
  readonly started: string;
  readonly reset: string;
  readonly timeline: string;
  readonly controlTimeline: number;
  readonly replayed: string | null;
}

const EVIDENCE = `
  select pg_postmaster_start_time()::text as started,
         pg_stat_get_bgwriter_stat_reset_time()::text as reset,
         substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) as timeline,
         (pg_control_checkpoint()).timeline_id::int as "controlTimeline",
         pg_last_wal_replay_lsn()::text as replayed`;

describe("a server that has only been started", () => {
  test("tells a plain role when, that nothing was replayed, and timeline 1", async () => {
    const { started, reset, timeline, controlTimeline, replayed } = await evidence(primary);
    expect(Date.parse(started)).toBeLessThanOrEqual(Date.now());
    expect(Date.parse(reset)).toBeLessThanOrEqual(Date.now());
    expect([timeline, controlTimeline, replayed]).toEqual(["00000001", 1, null]);
    expect((await dated(primary)).isPromoted).toBe(false);
  });
});

describe("a clean restart", () => {
  test("is a new start, keeps the statistics, and takes every lock", async () => {
    await keepsNoLock(primary, async () => {
      const before = await evidence(primary);
      await primary.restart({ mode: "fast" });
      const after = await evidence(primary);
      expect(after.started).not.toBe(before.started);
      expect(after.reset).toBe(before.reset);
    });
    expect(await dated(primary)).toMatchObject({ from: "start" });
  });
});

describe("an immediate restart", () => {
  test("is a new start, resets the statistics, and takes every lock", async () => {
    await keepsNoLock(primary, async () => {
      const before = await evidence(primary);
      await primary.restart({ mode: "immediate" });
      const after = await evidence(primary);
      expect(after.started).not.toBe(before.started);
      expect(after.reset).not.toBe(before.reset);
    });
  });
});

describe("the crash of one backend", () => {
  test("is no new start, resets the statistics, and takes every lock", async () => {
    await keepsNoLock(primary, async () => {
      const before = await evidence(primary);
      const asked = Date.now();
      const victim = await plain(primary);
      process.kill(victim.processID, "SIGKILL");
      // Until the postmaster has noticed the crash, it still accepts clients, which it then ends.
      const isNew = (told: Evidence) => told.reset !== before.reset && told;
      const after = await until(() => evidence(primary).then(isNew, () => undefined), { deadline: 20_000 });
      expect(after.started).toBe(before.started);
      // No earlier than the crash, except for rounding.
      expect(Date.parse(after.reset)).toBeGreaterThanOrEqual(asked - 10);
    });
    expect(await dated(primary)).toMatchObject({ from: "reset", isPromoted: false });
  });
});

describe("a promotion", () => {
  test("is no start, keeps counters, is the next timeline and has no old locks", async () => {
    // A standby's timeline is not its own, and asking for it would fail.
    expect(await seen(standby)).toBeNull();
    const onPrimary = await plain(primary);
    await onPrimary.query("select pg_advisory_lock_shared(1, 2)");
    const kept = await plain(standby);
    const before = await whenStarted(kept);
    await standby.promote();
    const after = await evidence(standby);
    expect(await whenStarted(kept)).toEqual(before);
    expect([after.started, after.reset]).toEqual(before);
    expect(after.timeline).toBe("00000002");
    expect(after.replayed).not.toBeNull();
    const promoted = await plain(standby);
    expect(await value(promoted, "select pg_try_advisory_lock(1, 2) as value")).toBe(true);
  });

  test("shows in pg_control_checkpoint after a checkpoint; until then the age is 0", async () => {
    const told: { controlTimeline: number; age: number }[] = [];
    await until(async () => {
      // The age is read after the timeline, so it may be ahead of the timeline, but not behind.
      const { age, isPromoted } = await dated(standby);
      const { controlTimeline } = await evidence(standby);
      expect(isPromoted).toBe(true);
      told.push({ controlTimeline, age });
      return controlTimeline === 2 && age > 0;
    });
    for (const { controlTimeline, age } of told) if (controlTimeline === 1) expect(age).toBe(0);
  });

  test("makes the server, and its next start, as old as its last checkpoint", async () => {
    const superuser = await connect({ connectionString: standby.url });
    await until(async () => (await dated(standby)).age > 1_500);
    await superuser.query("checkpoint");
    expect((await dated(standby)).age).toBeLessThan(1_500);
    await superuser.end();
    await standby.restart();
    expect(await evidence(standby)).toMatchObject({ timeline: "00000002", replayed: null });
    expect(await dated(standby)).toMatchObject({ from: "start", isPromoted: false });
  });
});

describe("the witness", () => {
  test("is in a space of its own: two 32-bit numbers are no key's id", async () => {
    const [one, other] = [await plain(primary), await plain(primary)];
    await one.query("select pg_advisory_lock(1885826155, 30000)");
    const id = ((1_885_826_155n << 32n) | 30_000n).toString();
    expect(await value(other, `select pg_try_advisory_lock(${id}) as value`)).toBe(true);
  });

  test("is looked up in the list of locks, because two tries at once refuse each other", async () => {
    const [one, other] = [await plain(primary), await plain(primary)];
    await one.query("begin");
    expect(await value(one, "select pg_try_advisory_xact_lock(1, 2) as value")).toBe(true);
    expect(await value(other, "select pg_try_advisory_xact_lock(1, 2) as value")).toBe(false);
  });
});

async function plain(server: PostgresServer): Promise<Session> {
  return await connect({ connectionString: server.url.replace("postgres@", "plain@") });
}

async function value(session: Session, sql: string): Promise<unknown> {
  return (await session.query<{ value: unknown }>(sql)).rows[0]?.value;
}

async function evidence(server: PostgresServer): Promise<Evidence> {
  const session = await plain(server);
  try {
    const { rows } = await session.query<Evidence>(EVIDENCE);
    return rows[0] as Evidence;
  } finally {
    await session.end().catch(() => {});
  }
}

/** Reads when the server was started, on a standby as well. */
async function whenStarted(session: Session): Promise<string[]> {
  const { rows } = await session.query<string[]>({
    text: "select pg_postmaster_start_time()::text, pg_stat_get_bgwriter_stat_reset_time()::text",
    rowMode: "array",
  });
  return rows[0] ?? [];
}

async function dated(server: PostgresServer): Promise<LockTableDated> {
  const session = await plain(server);
  const { rows } = await session.query<string[]>({ text: dateLockTable.text, rowMode: "array" });
  await session.end();
  return JSON.parse(rows[0]?.[0] ?? "") as LockTableDated;
}

async function seen(server: PostgresServer): Promise<unknown> {
  const session = await plain(server);
  const values = [1, 1, null, null, null, null];
  const { rows } = await session.query<string[]>({ text: askLockTable.text, values, rowMode: "array" });
  return (JSON.parse(rows[0]?.[0] ?? "") as { seen: unknown }).seen;
}

/** A shared advisory lock on a session that lives until `fault`, like the witness. */
async function keepsNoLock(server: PostgresServer, fault: () => Promise<void>): Promise<void> {
  const holder = await plain(server);
  await holder.query("select pg_advisory_lock_shared(3, 4)");
  const other = await plain(server);
  expect(await value(other, "select pg_try_advisory_xact_lock(3, 4) as value")).toBe(false);
  await fault();
  const after = await plain(server);
  expect(await value(after, "select pg_try_advisory_xact_lock(3, 4) as value")).toBe(true);
}
