import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { cancelStatement } from "../../src/postgres/cancel.ts";
import type { Client } from "../../src/postgres/driver.ts";
import {
  advisoryLocks,
  connect,
  createRole,
  holdersOf,
  onServer,
  type Session,
  uniqueId,
} from "../support/database.ts";
import { startServer } from "../support/start-server.ts";
import { until } from "../support/until.ts";

// The facts about PostgreSQL that a lock in a transaction relies on, each proven on the real server: the mark that shares the fate of the
// lock, the wait in a block of code, the time-out of an idle transaction. The facts about a transaction's advisory lock itself are in
// postgres-behavior-waiting.test.ts.

const mark = "select set_config('pg_locker.transaction', $1, true)";
const take = "select pg_try_advisory_xact_lock($1)";

async function marked(session: Session): Promise<string> {
  const { rows } = await session.query("select current_setting('pg_locker.transaction', true) as mark");
  return rows[0].mark ?? "";
}

/** A session in a transaction, or after a savepoint in one, that has taken a lock and left a mark. */
async function lockedAndMarked(before = "begin"): Promise<{ session: Session; id: bigint }> {
  const session = await connect();
  const id = uniqueId();
  await session.query(before);
  await session.query(take, [id.toString()]);
  await session.query(mark, ["here"]);
  return { session, id };
}

async function both(session: Session, id: bigint): Promise<{ mark: boolean; lock: boolean }> {
  const lock = (await holdersOf(id)).includes(session.processID);
  return { mark: (await marked(session)) === "here", lock };
}

const waits = async (): Promise<boolean> => (await advisoryLocks()).some(({ granted }) => !granted);

// https://www.postgresql.org/docs/current/functions-admin.html#FUNCTIONS-ADMIN-SET
describe("a custom setting, set locally, lasts as long as the transaction's lock:", () => {
  test.each<readonly [string, string, string, boolean]>([
    ["commit", "begin", "commit", false],
    ["rollback", "begin", "rollback", false],
    ["commit; begin", "begin", "commit; begin", false],
    ["commit and chain", "begin", "commit and chain", false],
    ["rollback to an older savepoint", "begin; savepoint a", "rollback to savepoint a", false],
    [
      "rollback to an older savepoint that was within another",
      "begin; savepoint a; savepoint b",
      "rollback to savepoint a",
      false,
    ],
    ["rollback to a younger savepoint", "begin", "savepoint a; select 1; rollback to savepoint a", true],
    ["release of an older savepoint", "begin; savepoint a", "release savepoint a", true],
    [
      "release of an older one, and rollback to one before that",
      "begin; savepoint a; savepoint b",
      "release savepoint b; rollback to savepoint a",
      false,
    ],
    [
      "an error behind a younger savepoint, and the rollback to that",
      "begin; savepoint a",
      "savepoint b",
      true,
    ],
  ])("%s", async (_, before, then, kept) => {
    const { session, id } = await lockedAndMarked(before);
    expect(await both(session, id)).toEqual({ mark: true, lock: true });
    await session.query(then);
    expect(await both(session, id)).toEqual({ mark: kept, lock: kept });
  });

  test("outside of a transaction it is for its statement alone, for any role", async () => {
    await using role = await createRole();
    const session = await connect({ connectionString: role.url });
    await session.query(mark, ["here"]);
    expect(await marked(session)).toBe("");
    await session.end();
  });

  test("an error ends the lock at once, before the rollback", async () => {
    const { session, id } = await lockedAndMarked();
    await session.query("select 1/0").catch(() => {});
    expect(await holdersOf(id)).toEqual([]);
    await expect(marked(session)).rejects.toMatchObject({ code: "25P02" });
  });

  test("nothing but the transaction's end frees its lock: no unlock of the session's", async () => {
    const { session, id } = await lockedAndMarked();
    await session.query("select pg_advisory_unlock_all(), pg_advisory_unlock($1)", [id.toString()]);
    expect(await both(session, id)).toEqual({ mark: true, lock: true });
  });
});

// https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT
describe("two statements in one message", () => {
  const committed = async (session: Session): Promise<number> =>
    (await session.query("select from written")).rowCount ?? 0;
  test("a failed first skips the second; a CASE evaluates only the arm it takes", async () => {
    const session = await connect();
    await session.query("create table written (what int)");
    await session.query("begin; insert into written values (1)");
    const conditional = (when: string) =>
      `select case when ${when} then 'held' else current_setting('pg_locker.the_lock_has_gone') end; commit`;
    await expect(session.query(conditional("pg_backend_pid() = 0"))).rejects.toMatchObject({ code: "42704" });
    await session.query("rollback");
    expect(await committed(session)).toBe(0);
    await session.query("begin; insert into written values (1)");
    await session.query(conditional("pg_backend_pid() <> 0"));
    expect(await committed(session)).toBe(1);
    await session.query("begin; insert into written values (1)");
    await session.query("select 1/0").catch(() => {});
    await expect(session.query(conditional("true"))).rejects.toMatchObject({ code: "25P02" });
    await session.query("rollback; drop table written");
  });
});

describe("a wait in a block of code that catches its end", () => {
  const block = (id: bigint): string => `
    do $$ begin
      perform pg_advisory_xact_lock('${id}'::int8);
      perform set_config('pg_locker.transaction', 'here', true);
    exception when lock_not_available or query_canceled then null; end $$`;

  async function held(): Promise<{ id: bigint; holder: Session; session: Session }> {
    const [id, holder, session] = [uniqueId(), await connect(), await connect()];
    await holder.query("select pg_advisory_lock($1)", [id.toString()]);
    return { id, holder, session };
  }

  test.each<readonly [string, string, (session: Session) => Promise<unknown>]>([
    ["its lock_timeout", "set local lock_timeout = '30ms'", async () => {}],
    ["the statement_timeout", "set local statement_timeout = '30ms'", async () => {}],
    ["a cancellation", "select 1", (session) => cancelStatement(session as unknown as Client)],
  ])("by %s: no error, no lock, no mark; and the transaction goes on", async (_, set, end) => {
    const { id, session } = await held();
    await session.query("begin");
    await session.query(set);
    const waited = session.query(block(id));
    if (set === "select 1") await until(waits);
    await end(session);
    await waited;
    expect(await both(session, id)).toEqual({ mark: false, lock: false });
    await session.query("commit");
  });

  test("once granted, lock and mark survive the block and a savepoint's release", async () => {
    const { id, holder, session } = await held();
    await session.query("begin; savepoint a");
    const waited = session.query(block(id));
    await until(waits);
    await holder.query("select pg_advisory_unlock($1)", [id.toString()]);
    await waited;
    await session.query("release savepoint a");
    expect(await both(session, id)).toEqual({ mark: true, lock: true });
  });

  test("a lock that was granted in a block that then fails goes with it", async () => {
    const [id, session] = [uniqueId(), await connect()];
    await session.query("begin");
    await session.query(
      `do $$ begin perform pg_advisory_xact_lock('${id}'::int8); raise query_canceled; exception when query_canceled then null; end $$`,
    );
    expect(await holdersOf(id)).toEqual([]);
  });

  test("a cancellation at the grant leaves both lock and mark, or neither", async () => {
    const { id, holder, session } = await held();
    const seen = { granted: 0, not: 0 };
    for (let round = 0; round < 100; round += 1) {
      await session.query("begin");
      const waited = session.query(block(id)).catch((error: unknown) => error);
      await until(waits, { interval: 1 });
      const freed = holder.query("select pg_advisory_unlock($1)", [id.toString()]);
      if (round % 2 === 0) await delay(Math.random());
      await Promise.all([freed, cancelStatement(session as unknown as Client)]);
      const error = await waited;
      if (error instanceof Error) {
        // The cancellation came after the block, just before the end of the statement.
        expect(error).toMatchObject({ code: "57014" });
        expect(await holdersOf(id)).toEqual([]);
      } else {
        const found = await both(session, id);
        expect(found.mark).toBe(found.lock);
        seen[found.lock ? "granted" : "not"] += 1;
      }
      await session.query("rollback");
      await holder.query("select pg_advisory_lock($1)", [id.toString()]);
    }
    expect(seen.granted).toBeGreaterThan(0);
  });

  test("in read committed it holds a snapshot only while it waits", async () => {
    const { id, session } = await held();
    await session.query("begin isolation level read committed; set local lock_timeout = '300ms'");
    const xmin = async () => {
      const [found] = await onServer<{ xmin: string | null; xid: string | null }>(
        "select backend_xmin::text as xmin, backend_xid::text as xid from pg_stat_activity where pid = $1",
        [session.processID],
      );
      return found;
    };
    const waited = session.query(block(id));
    await until(waits);
    expect((await xmin())?.xmin).not.toBeNull();
    await waited;
    expect(await xmin()).toEqual({ xmin: null, xid: null });
    await session.query("commit");
  });

  test("a deadlock shows after deadlock_timeout, uncaught, and ends at a savepoint", async () => {
    const [a, b] = [uniqueId(), uniqueId()];
    const [one, two] = [await connect(), await connect()];
    for (const [session, id] of [
      [one, a],
      [two, b],
    ] as const) {
      await session.query("set deadlock_timeout = '100ms'; begin");
      await session.query(take, [id.toString()]);
      await session.query("savepoint pg_locker");
    }
    const first = one.query(block(b)).catch((error: unknown) => error);
    await until(waits);
    const second = two.query(block(a)).catch((error: unknown) => error);
    const victim = await Promise.race([first.then(() => one), second.then(() => two)]);
    expect(await (victim === one ? first : second)).toMatchObject({ code: "40P01" });
    await victim.query("rollback to savepoint pg_locker");
    await victim.query("select 1");
    expect(await holdersOf(victim === one ? a : b)).toEqual([victim.processID]);
    await victim.query("commit");
    await Promise.all([first, second]);
  });

  test("leaves no line in the server's log, as a wait without the block does", async () => {
    await using server = await startServer();
    const [holder, session] = [
      await connect({ connectionString: server.url }),
      await connect({ connectionString: server.url }),
    ];
    const id = uniqueId();
    await holder.query("select pg_advisory_lock($1)", [id.toString()]);
    const log = join(dirname(server.dataDirectory), "server.log");
    const errors = async () => (await readFile(log, "utf8")).match(/ERROR: {2}.*/g) ?? [];
    await session.query("set lock_timeout = '20ms'");
    await session.query(block(id));
    await session.query("set lock_timeout = 0");
    const waited = session.query(block(id));
    await until(async () => (await holder.query("select from pg_locks where not granted")).rowCount === 1);
    await cancelStatement(session as unknown as Client);
    await waited;
    await session.query("set lock_timeout = '20ms'");
    await expect(session.query("select pg_advisory_xact_lock($1)", [id.toString()])).rejects.toMatchObject({
      code: "55P03",
    });
    await until(async () => (await errors()).length > 0);
    expect(await errors()).toEqual(["ERROR:  canceling statement due to lock timeout"]);
  });

  test("needs a privilege that a role may lack, and the catalog tells", async () => {
    const own = await connect();
    await using role = await createRole();
    const may = `select has_language_privilege(oid, 'usage') as may from pg_language where lanname = 'plpgsql'`;
    const session = await connect({ connectionString: role.url });
    expect((await session.query(may)).rows).toEqual([{ may: true }]);
    await own.query("revoke usage on language plpgsql from public");
    expect((await session.query(may)).rows).toEqual([{ may: false }]);
    await expect(session.query(block(uniqueId()))).rejects.toMatchObject({ code: "42501" });
    await own.query("grant usage on language plpgsql to public");
    await session.end();
  });
});

describe("what is set locally", () => {
  test("counts from the next statement on: a statement_timeout, too", async () => {
    const session = await connect();
    await session.query("begin; set local statement_timeout = '50ms'");
    await session.query("select set_config('statement_timeout', '0', true)");
    await session.query("select pg_sleep(0.15)");
    await session.query("commit");
  });

  test("is as before after a rollback to an older savepoint", async () => {
    const session = await connect();
    await session.query("begin; set local lock_timeout = '7s'; savepoint a; set local lock_timeout = '9s'");
    await session.query("rollback to savepoint a; release savepoint a");
    expect((await session.query("show lock_timeout")).rows).toEqual([{ lock_timeout: "7s" }]);
  });

  test("a savepoint is refused outside of a transaction, also by the extended protocol", async () => {
    const session = await connect();
    for (const values of [undefined, []]) {
      await expect(session.query("savepoint a", values)).rejects.toMatchObject({ code: "25P01" });
    }
  });
});

// https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-IDLE-IN-TRANSACTION-SESSION-TIMEOUT
describe("idle_in_transaction_session_timeout, set locally", () => {
  const set = "begin; set local idle_in_transaction_session_timeout = '300ms'";

  test("ends the session of a transaction that is idle, and frees its lock", async () => {
    const { session, id } = await lockedAndMarked(set);
    const errors: unknown[] = [];
    session.on("error", (error) => errors.push(error));
    await until(() => errors.length > 0);
    expect(errors[0]).toMatchObject({ code: "25P03" });
    await until(async () => (await holdersOf(id)).length === 0);
  });

  test("goes with a statement that fails, as the lock does", async () => {
    const { session, id } = await lockedAndMarked(set);
    await session.query("select 1/0").catch(() => {});
    expect(await holdersOf(id)).toEqual([]);
    await delay(600);
    await session.query("rollback");
  });

  test("begins anew with every statement, an empty one, too; and does not run during one", async () => {
    const { session, id } = await lockedAndMarked(set);
    for (let i = 0; i < 6; i += 1) {
      await session.query("");
      await delay(150);
    }
    await session.query("select pg_sleep(0.8)");
    expect(await both(session, id)).toEqual({ mark: true, lock: true });
  });

  test("ends with the transaction", async () => {
    const { session } = await lockedAndMarked(set);
    await session.query("commit; begin");
    await delay(600);
    await session.query("commit");
  });
});

test("pg_locks lists a session's locks in the same way, whatever call took them", async () => {
  const session = await connect();
  const ids = [uniqueId(), uniqueId(), uniqueId()] as const;
  await session.query("begin");
  await session.query("select pg_advisory_lock($1)", [ids[0].toString()]);
  await session.query("select pg_advisory_xact_lock($1)", [ids[1].toString()]);
  await session.query("select pg_advisory_xact_lock_shared($1)", [ids[2].toString()]);
  const found = await advisoryLocks();
  for (const [id, mode] of [
    [ids[0], "ExclusiveLock"],
    [ids[1], "ExclusiveLock"],
    [ids[2], "ShareLock"],
  ] as const) {
    expect(found).toContainEqual({ id, space: "bigint", pid: session.processID, mode, granted: true });
  }
  // And the server grants each of them again to its own session, in any mode.
  for (const id of ids) {
    const { rows } = await session.query("select pg_try_advisory_xact_lock($1) as granted", [id.toString()]);
    expect(rows).toEqual([{ granted: true }]);
  }
});
