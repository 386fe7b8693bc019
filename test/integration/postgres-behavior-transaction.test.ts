import type pg from "pg";
import { describe, expect, test } from "vitest";
import { advisoryLocks, connect, holdersOf, onServer, type Session, uniqueId } from "../support/database.ts";
import { until } from "../support/until.ts";

// The facts about PostgreSQL that locking in a transaction relies on, each proven on the real server. The facts about session locks and
// settings are in postgres-behavior.test.ts, those about waiting in postgres-behavior-waiting.test.ts.

// https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADVISORY-LOCKS
describe("a transaction's advisory lock", () => {
  test("is freed at the end of its statement outside of a transaction block", async () => {
    const id = uniqueId();
    const session = await connect();
    expect(await tryXactLock(session, id)).toBe(true);
    expect(await advisoryLocks()).toEqual([]);
    expect(await tryLock(await connect(), id)).toBe(true);
  });

  test("is refused at once while another session holds the id in shared mode", async () => {
    const id = uniqueId();
    const holder = await connect();
    expect(await tryLockShared(holder, id)).toBe(true);
    expect(await tryXactLock(await connect(), id)).toBe(false);
    expect(await advisoryLocks()).toEqual([
      { id, space: "bigint", pid: holder.processID, mode: "ShareLock", granted: true },
    ]);
  });

  test("refuses a shared one to another session until its transaction ends", async () => {
    const id = uniqueId();
    const [holder, other] = [await connect(), await connect()];
    await holder.query("begin");
    expect(await tryXactLock(holder, id)).toBe(true);
    expect(await tryLockShared(other, id)).toBe(false);
    await holder.query("commit");
    expect(await tryLockShared(other, id)).toBe(true);
  });

  test("is granted twice in one transaction, and one commit frees both", async () => {
    const id = uniqueId();
    const session = await connect();
    await session.query("begin");
    expect([await tryXactLock(session, id), await tryXactLock(session, id)]).toEqual([true, true]);
    expect(await holdersOf(id)).toEqual([session.processID]);
    await session.query("commit");
    expect(await advisoryLocks()).toEqual([]);
    expect(await tryLock(await connect(), id)).toBe(true);
  });

  test("is freed by a rollback to a savepoint that is older than it", async () => {
    const id = uniqueId();
    const session = await connect();
    await session.query("begin");
    await session.query("savepoint a");
    expect(await tryXactLock(session, id)).toBe(true);
    await session.query("rollback to savepoint a");
    expect(await advisoryLocks()).toEqual([]);
    expect(await tryLock(await connect(), id)).toBe(true);
  });

  test("is kept by a rollback to a savepoint that is younger than it", async () => {
    const id = uniqueId();
    const session = await connect();
    await session.query("begin");
    expect(await tryXactLock(session, id)).toBe(true);
    await session.query("savepoint a");
    await session.query("rollback to savepoint a");
    expect(await holdersOf(id)).toEqual([session.processID]);
    expect(await tryLock(await connect(), id)).toBe(false);
  });

  test("taken before a savepoint and again after it is kept by the rollback to it", async () => {
    const id = uniqueId();
    const session = await connect();
    await session.query("begin");
    expect(await tryXactLock(session, id)).toBe(true);
    await session.query("savepoint a");
    expect(await tryXactLock(session, id)).toBe(true);
    await session.query("rollback to savepoint a");
    expect(await holdersOf(id)).toEqual([session.processID]);
  });

  test.each([
    ["its client ends", (session: Session) => session.end()],
    ["it is terminated", (session: Session) => terminate(session)],
  ])("is freed, with the writes undone, if the session is in it and %s", async (_how, end) => {
    await using table = await createTable();
    const id = uniqueId();
    const [session, other] = [await connect(), await connect()];
    await session.query("begin");
    expect(await tryXactLock(session, id)).toBe(true);
    await session.query(`insert into ${table.name} values (1)`);
    await end(session);
    await until(() => tryLock(other, id));
    expect(await countOf(other, table.name)).toBe(0);
  });
});

describe("a shared advisory lock", () => {
  test("is held by two sessions together", async () => {
    const id = uniqueId();
    const sessions = [await connect(), await connect()];
    for (const session of sessions) expect(await tryLockShared(session, id)).toBe(true);
    const pids = sessions.map((session) => session.processID);
    expect((await holdersOf(id)).sort()).toEqual(pids.sort());
  });
});

describe("a session that holds a session advisory lock", () => {
  test("holds back no vacuum: it has neither backend_xmin nor backend_xid", async () => {
    const session = await connect();
    expect(await tryLock(session, uniqueId())).toBe(true);
    const sql = "select state, backend_xmin, backend_xid from pg_stat_activity where pid = $1";
    expect(await onServer(sql, [session.processID])).toEqual([
      { state: "idle", backend_xmin: null, backend_xid: null },
    ]);
  });

  test("isn't waited for by CREATE INDEX CONCURRENTLY", async () => {
    await using table = await createTable();
    const id = uniqueId();
    const session = await connect();
    expect(await tryLock(session, id)).toBe(true);
    const indexer = await connect({ statement_timeout: 10_000 });
    await indexer.query(`create index concurrently on ${table.name} (value)`);
    expect(await holdersOf(id)).toEqual([session.processID]);
  });

  test("is waited for by it once it has a snapshot", async () => {
    await using table = await createTable();
    const session = await connect();
    await session.query("begin isolation level repeatable read");
    expect(await tryXactLock(session, uniqueId())).toBe(true);
    const indexer = await connect({ statement_timeout: 10_000 });
    const indexed = indexer.query(`create index concurrently on ${table.name} (value)`);
    const sql = "select from pg_locks where pid = $1 and locktype = 'virtualxid' and not granted";
    await until(async () => (await onServer(sql, [indexer.processID])).length > 0);
    await session.query("commit");
    await indexed;
  });
});

// https://www.postgresql.org/docs/current/transaction-iso.html
describe("what the previous holder committed", () => {
  test("is seen in read committed, even by a transaction with an older statement", async () => {
    await using table = await createTable();
    const id = uniqueId();
    const [previous, next] = [await connect(), await connect()];
    await next.query("begin isolation level read committed");
    expect(await countOf(next, table.name)).toBe(0);
    await writeUnderLock(previous, id, table.name);
    expect(await tryXactLock(next, id)).toBe(true);
    expect(await countOf(next, table.name)).toBe(1);
    await next.query("commit");
  });

  test("isn't seen in repeatable read if an earlier statement took the snapshot", async () => {
    await using table = await createTable();
    const id = uniqueId();
    const [previous, next] = [await connect(), await connect()];
    await next.query("begin isolation level repeatable read");
    await next.query("select 1");
    await writeUnderLock(previous, id, table.name);
    expect(await tryXactLock(next, id)).toBe(true);
    expect(await countOf(next, table.name)).toBe(0);
    await next.query("commit");
  });

  test("isn't seen in repeatable read if a refused try took the snapshot", async () => {
    await using table = await createTable();
    const id = uniqueId();
    const [previous, next] = [await connect(), await connect()];
    await previous.query("begin");
    expect(await tryXactLock(previous, id)).toBe(true);
    await next.query("begin isolation level repeatable read");
    expect(await tryXactLock(next, id)).toBe(false);
    await previous.query(`insert into ${table.name} values (1)`);
    await previous.query("commit");
    expect(await tryXactLock(next, id)).toBe(true);
    expect(await countOf(next, table.name)).toBe(0);
    await next.query("commit");
  });

  test("isn't seen in repeatable read if the first statement waited for the lock", async () => {
    await using table = await createTable();
    const id = uniqueId();
    const [previous, next] = [await connect(), await connect()];
    await previous.query("begin");
    expect(await tryXactLock(previous, id)).toBe(true);
    await next.query("begin isolation level repeatable read");
    const granted = next.query("select pg_advisory_xact_lock($1)", [id]);
    await until(async () => (await advisoryLocks()).some((lock) => !lock.granted));
    await previous.query(`insert into ${table.name} values (1)`);
    await previous.query("commit");
    await granted;
    expect(await countOf(next, table.name)).toBe(0);
    await next.query("commit");
  });

  test("is seen in repeatable read if the granted try is the first statement", async () => {
    await using table = await createTable();
    const id = uniqueId();
    const [previous, next] = [await connect(), await connect()];
    await next.query("begin isolation level repeatable read");
    await writeUnderLock(previous, id, table.name);
    expect(await tryXactLock(next, id)).toBe(true);
    expect(await countOf(next, table.name)).toBe(1);
    await next.query("commit");
  });
});

// https://www.postgresql.org/docs/current/sql-commit.html
describe("commit", () => {
  test("of a transaction in which a statement failed answers ROLLBACK, and no error", async () => {
    const session = await connect();
    await session.query("begin");
    await expect(session.query("select no_such_column")).rejects.toMatchObject({ code: "42703" });
    expect((await session.query("commit")).command).toBe("ROLLBACK");
  });

  test("of a transaction without a failure answers COMMIT", async () => {
    const session = await connect();
    await session.query("begin");
    await session.query("select 1");
    expect((await session.query("commit")).command).toBe("COMMIT");
  });
});

async function one(session: pg.Client, sql: string, ...values: unknown[]): Promise<unknown> {
  return (await session.query<{ value: unknown }>(sql, values)).rows[0]?.value;
}

function tryLock(session: pg.Client, id: bigint): Promise<unknown> {
  return one(session, "select pg_try_advisory_lock($1) as value", id);
}

function tryLockShared(session: pg.Client, id: bigint): Promise<unknown> {
  return one(session, "select pg_try_advisory_lock_shared($1) as value", id);
}

function tryXactLock(session: pg.Client, id: bigint): Promise<unknown> {
  return one(session, "select pg_try_advisory_xact_lock($1) as value", id);
}

function countOf(session: pg.Client, table: string): Promise<unknown> {
  return one(session, `select count(*)::int as value from ${table}`);
}

async function writeUnderLock(session: pg.Client, id: bigint, table: string): Promise<void> {
  await session.query("begin");
  expect(await tryXactLock(session, id)).toBe(true);
  await session.query(`insert into ${table} values (1)`);
  await session.query("commit");
}

async function terminate(session: Session): Promise<void> {
  await onServer("select pg_terminate_backend($1)", [session.processID]);
}

/** Creates an empty table with one int column, `value`, which is dropped at the end of the test. */
async function createTable(): Promise<AsyncDisposable & { readonly name: string }> {
  // A test that fails within a transaction should fail for its own reason, not because this drop waits for it.
  const session = await connect({ lock_timeout: 2000 });
  await session.query("create table written (value int)");
  return {
    name: "written",
    [Symbol.asyncDispose]: async () => {
      await session.query("drop table written");
    },
  };
}
