import { describe, expect, test } from "vitest";
import {
  connect,
  createRole,
  databaseUrl,
  onServer,
  type Session,
  uniqueId,
  uniqueKey,
  urlWith,
} from "../support/database.ts";
import { startServer } from "../support/start-server.ts";

// The facts about PostgreSQL that the diagnosis of a database relies on.

const database = new URL(databaseUrl()).pathname.slice(1);

describe("the lock table", () => {
  // https://www.postgresql.org/docs/current/view-pg-locks.html
  test("lists the locks that don't take the fast path, which advisory locks never do", async () => {
    const session = await connect();
    await session.query("create table things (id int)");
    await session.query("begin");
    await session.query("select pg_try_advisory_xact_lock($1)", [uniqueId()]);
    await session.query("select from things");
    const locks = await locksOf(session);
    expect(locks).toContainEqual({ locktype: "advisory", mode: "ExclusiveLock", fastpath: false });
    expect(locks).toContainEqual({ locktype: "virtualxid", mode: "ExclusiveLock", fastpath: true });
    expect(locks).toContainEqual({ locktype: "relation", mode: "AccessShareLock", fastpath: true });
    await session.query("rollback");
  });

  test("is separate from that of predicate locks, which are listed as SIReadLock", async () => {
    const session = await connect();
    await session.query("create table read (id int)");
    await session.query("insert into read values (1)");
    await session.query("begin isolation level serializable");
    await session.query("select * from read");
    expect(await locksOf(session)).toContainEqual({
      locktype: "relation",
      mode: "SIReadLock",
      fastpath: false,
    });
    await session.query("rollback");
  });

  test("lists one row for each holder of a shared lock", async () => {
    const id = uniqueId();
    for (const session of [await connect(), await connect()]) {
      await session.query("select pg_try_advisory_lock_shared($1)", [id]);
    }
    const [row] = await onServer(
      `select count(*)::int as rows, count(distinct json_build_array(classid, objid, objsubid)::text)::int as locks
         from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = $1)`,
      [database],
    );
    expect(row).toEqual({ rows: 2, locks: 1 });
  });

  // https://www.postgresql.org/docs/current/runtime-config-locks.html
  test("has room for max_locks_per_transaction each; when full nobody can connect", async () => {
    await using server = await startServer({
      settings: { max_locks_per_transaction: 10, max_connections: 20 },
    });
    const config = { connectionString: server.url };
    const [holder, witness] = [await connect(config), await connect(config)];
    await witness.query("select count(*) from pg_lock_status()");
    const filling = holder.query("select pg_try_advisory_lock(id) from generate_series(1, 1000000) as id");
    await expect(filling).rejects.toMatchObject({ code: "53200" });
    await expect(connect(config)).rejects.toMatchObject({ code: "53200" });
    // A client that is connected already is answered by the function.
    const { rows } = await witness.query(
      "select count(*)::int as n from pg_lock_status() where not fastpath",
    );
    expect(rows[0].n).toBeGreaterThanOrEqual(200);
    await holder.query("select pg_advisory_unlock_all()");
  });
});

describe("pg_settings", () => {
  // https://www.postgresql.org/docs/current/view-pg-settings.html
  test("says where a setting comes from", async () => {
    await using role = await createRole();
    await onServer(`alter role ${role.name} set statement_timeout = '20s'`);
    await onServer(`alter role ${role.name} in database ${database} set lock_timeout = '5s'`);
    await onServer(`alter database ${database} set idle_session_timeout = '1h'`);
    const session = await connect({ connectionString: role.url, options: "-c tcp_user_timeout=7000" });
    const { rows } = await session.query(
      `select name, setting, unit, source from pg_settings
        where name in ('statement_timeout', 'lock_timeout', 'idle_session_timeout', 'tcp_user_timeout') order by name`,
    );
    await onServer(`alter database ${database} reset idle_session_timeout`);
    expect(rows).toEqual([
      { name: "idle_session_timeout", setting: "3600000", unit: "ms", source: "database" },
      { name: "lock_timeout", setting: "5000", unit: "ms", source: "database user" },
      { name: "statement_timeout", setting: "20000", unit: "ms", source: "user" },
      { name: "tcp_user_timeout", setting: "7000", unit: "ms", source: "client" },
    ]);
    await session.end();
  });

  test("has reserved_connections from 16 on, transaction_timeout from 17 on", async () => {
    const rows = await onServer("select name from pg_settings where name = any($1) order by name", [
      ["reserved_connections", "transaction_timeout"],
    ]);
    const [server] = await onServer<{ version: string }>(
      "select current_setting('server_version_num') as version",
    );
    const major = Math.floor(Number(server?.version) / 10_000);
    expect(rows.map(({ name }) => name)).toEqual([
      ...(major >= 16 ? ["reserved_connections"] : []),
      ...(major >= 17 ? ["transaction_timeout"] : []),
    ]);
    expect(await onServer("select current_setting('no_such_setting', true) as value")).toEqual([
      { value: null },
    ]);
  });
});

test("a setting that is local to a statement is gone with it, whoever sets it", async () => {
  await using role = await createRole();
  const session = await connect({ connectionString: role.url });
  const { rows } = await session.query(
    `select set_config('idle_session_timeout', '60000', true) as timeout,
            set_config('tcp_keepalives_idle', '15', true) as keepalive`,
  );
  expect(rows).toEqual([{ timeout: "1min", keepalive: "15" }]);
  expect((await session.query("show idle_session_timeout")).rows).toEqual([{ idle_session_timeout: "0" }]);
  await session.end();
});

test("a plain role sees others' sessions and databases, and not what they are", async () => {
  await using role = await createRole();
  const other = await connect();
  const session = await connect({ connectionString: role.url });
  const { rows } = await session.query(
    `select pid, datname, usename is not null as named, backend_type from pg_stat_activity
      where pid = any($1) order by pid = pg_backend_pid()`,
    [[other.processID, session.processID]],
  );
  expect(rows).toEqual([
    { pid: other.processID, datname: database, named: true, backend_type: null },
    { pid: session.processID, datname: database, named: true, backend_type: "client backend" },
  ]);
  // The server's own processes have no database.
  const own = "select from pg_stat_activity where backend_type = 'checkpointer' and datid is null";
  expect(await onServer(own)).toHaveLength(1);
  await session.end();
});

describe("a connection is refused", () => {
  test("with 53300 at the role's or database's limit, which binds no superuser", async () => {
    await using role = await createRole();
    await onServer(`alter role ${role.name} connection limit 1`);
    const first = await connect({ connectionString: role.url });
    await expect(connect({ connectionString: role.url })).rejects.toMatchObject({ code: "53300" });
    await onServer(`alter role ${role.name} connection limit -1`);
    await onServer(`alter database ${database} connection limit 1`);
    await expect(connect({ connectionString: role.url })).rejects.toMatchObject({ code: "53300" });
    await connect();
    await onServer(`alter database ${database} connection limit -1`);
    await first.end();
  });

  test("with 3D000 for no database, 42501 without CONNECT, 55000 if nobody may", async () => {
    const name = uniqueKey("database").replace(":", "_");
    await using role = await createRole();
    const url = urlWith({ database: name, user: role.name, password: "secret" });
    await expect(connect({ connectionString: url })).rejects.toMatchObject({ code: "3D000" });
    await onServer(`create database ${name}`);
    await onServer(`revoke connect on database ${name} from public`);
    await expect(connect({ connectionString: url })).rejects.toMatchObject({ code: "42501" });
    await onServer(`alter database ${name} allow_connections false`);
    await expect(connect({ connectionString: url })).rejects.toMatchObject({ code: "55000" });
    await onServer(`drop database ${name} with (force)`);
  });

  test("with 28P01 for a wrong password", async () => {
    await using server = await startServer();
    const admin = await connect({ connectionString: server.url });
    await admin.query("create role password_required");
    await admin.query("create role alice login password 'right' in role password_required");
    const alice = new URL(server.url);
    [alice.username, alice.password] = ["alice", "wrong"];
    await expect(connect({ connectionString: alice.href })).rejects.toMatchObject({ code: "28P01" });
  });
});

describe("what a fencing token is made of", () => {
  const token = "select pg_walfile_name(pg_logical_emit_message(true, 'test', '')), pg_current_xact_id()";

  test("may be called by every role, in a read-only session too", async () => {
    await using role = await createRole();
    const session = await connect({ connectionString: role.url });
    await session.query("set default_transaction_read_only = on");
    expect((await session.query(token)).rowCount).toBe(1);
    await session.end();
  });

  test("needs no more than the lowest wal_level", async () => {
    await using server = await startServer({ settings: { wal_level: "minimal", max_wal_senders: 0 } });
    expect((await (await connect({ connectionString: server.url })).query(token)).rowCount).toBe(1);
  });

  test("pg_logical_emit_message for text and bytea, with one more parameter from 17", async () => {
    const rows = await onServer<{ types: string }>(
      `select array_to_string(proargtypes::regtype[], ',') as types from pg_proc
        where proname = 'pg_logical_emit_message' order by 1`,
    );
    const types = rows.map(({ types }) => types.replace(/^boolean,text,(\w+)(,boolean)?$/, "$1"));
    expect(types).toEqual(["bytea", "text"]);
  });
});

async function locksOf(session: Session) {
  return onServer("select locktype, mode, fastpath from pg_locks where pid = $1", [session.processID]);
}
