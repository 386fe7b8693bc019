import { once } from "node:events";
import { createServer } from "node:net";
import { describe, expect, inject, test } from "vitest";
import {
  type DiagnosisCheck,
  type DiagnosisOptions,
  diagnose,
  type Finding,
  InvalidConfigError,
} from "../../src/index.ts";
import {
  advisoryLocks,
  connect,
  createPool,
  createRole,
  databaseUrl,
  onServer,
  uniqueKey,
  urlWith,
} from "../support/database.ts";
import { ImitatedPooler } from "../support/imitated-pooler.ts";
import { PgBouncer } from "../support/pgbouncer.ts";
import { startServer } from "../support/start-server.ts";
import { makeCommitsWait } from "../support/synchronous-standby.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

const checks: readonly DiagnosisCheck[] = [
  "reachable",
  "version",
  "primary",
  "pooler",
  "locks",
  "lock-ids",
  "timeouts",
  "lock-table",
  "recovery",
  "connections",
  "clock",
  "server-ttl",
  "fencing",
  "privileges",
];

const database = new URL(databaseUrl()).pathname.slice(1);

const sessionsHere = async (): Promise<number> =>
  (
    await onServer("select from pg_stat_activity where datname = $1 and backend_type = 'client backend'", [
      database,
    ])
  ).length;

describe("a database that is fit for locks", () => {
  test("passes every check, in a fixed order", async () => {
    await using server = await startServer({ settings: { fsync: "on" } });
    const findings = await diagnose(createPool({ connectionString: server.url }));
    expect(findings.map(({ check }) => check)).toEqual(checks);
    // How long a round trip takes depends on the machine.
    expect(findings.filter(({ check, verdict }) => verdict !== "ok" && check !== "reachable")).toEqual([]);
    expect(findingOf(findings, "version").found).toContain(`PostgreSQL ${inject("postgresMajor")}`);
    expect(findingOf(findings, "locks").found).toContain("refused to a second session");
    expect(findingOf(findings, "recovery").found).toMatch(
      /^the lock table is \S+ old, since .*`recoveryGrace`/,
    );
  });

  test("is left as it was: no lock, no setting, no session, and nothing of the pool", async () => {
    const witness = await connect();
    const pool = createPool({ max: 1 });
    // The whole pool is checked out, which says nothing about the database.
    const client = await pool.connect();
    const settings = "select name, setting from pg_settings order by name";
    const before = (await client.query(settings)).rows;
    const findings = await diagnose(pool);
    expect(findings).toHaveLength(checks.length);
    expect(findings.filter(({ verdict }) => verdict === "fail")).toEqual([]);
    expect((await client.query(settings)).rows).toEqual(before);
    expect([pool.totalCount, pool.idleCount, pool.waitingCount]).toEqual([1, 0, 0]);
    client.release();
    expect(await advisoryLocks()).toEqual([]);
    await until(async () => (await sessionsHere()) === 2);
    await witness.end();
  });

  test("passes for a role without privileges, which is told what it may ask for", async () => {
    await using role = await createRole();
    const findings = await diagnose(createPool({ connectionString: role.url }));
    expect(findings.filter(({ verdict }) => verdict === "fail")).toEqual([]);
    expect(findings.filter(({ found }) => found.startsWith("not known"))).toEqual([]);
    const privileges = findingOf(findings, "privileges");
    expect(privileges).toMatchObject({ verdict: "ok" });
    expect(privileges.advice).toContain("pg_read_all_stats");
    await onServer(`grant pg_read_all_stats, pg_signal_backend to ${role.name}`);
    const granted = findingOf(await diagnose(createPool({ connectionString: role.url })), "privileges");
    expect(granted).toEqual({
      check: "privileges",
      verdict: "ok",
      found: `${role.name} sees every session, may end every session except a superuser's`,
    });
  });
});

test("a server that is far away causes a warning, and is checked all the same", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  proxy.delay(60);
  const findings = await diagnose(createPool({ connectionString: proxy.url }));
  expect(findings).toHaveLength(checks.length);
  expect(findings[0]).toMatchObject({ check: "reachable", verdict: "warn" });
  expect(findings[0]?.advice).toContain("move closer");
  expect(findings.filter(({ verdict }) => verdict === "fail")).toEqual([]);
});

describe("a server that can't be reached", () => {
  test("for a wrong password fails in one line, without the password", async () => {
    await using server = await startServer();
    const admin = createPool({ connectionString: server.url });
    await admin.query("create role password_required");
    await admin.query("create role alice login password 'right' in role password_required");
    const url = new URL(server.url);
    [url.username, url.password] = ["alice", "hunter2"];
    const wrong = await diagnose(createPool({ connectionString: url.href }));
    expect(wrong).toMatchObject([{ check: "reachable", verdict: "fail" }]);
    expect(JSON.stringify(wrong)).not.toContain("hunter2");
    expect(wrong[0]?.advice).toContain("password");
    url.password = "";
    const none = await diagnose(createPool({ connectionString: url.href }));
    expect(none).toMatchObject([{ check: "reachable", verdict: "fail" }]);
    url.password = "right";
    expect(await diagnose(createPool({ connectionString: url.href }))).toHaveLength(checks.length);
  });

  test.each([
    ["at a port where nobody listens", async () => `postgres://u:hunter2@127.0.0.1:${await closedPort()}/db`],
    ["at a host that does not exist", async () => "postgres://u:hunter2@no-such-host.invalid/db"],
    ["by a URL that can't be read", async () => "postgres://u:hunter2@127.0.0.1:none/db"],
    ["for a database that does not exist", async () => urlWith({ database: "no_such_database" })],
  ])("%s fails in one line, without a password", async (_, url) => {
    const findings = await diagnose(createPool({ connectionString: await url() }));
    expect(findings).toMatchObject([{ check: "reachable", verdict: "fail" }]);
    expect(findings[0]?.advice).toMatch(/\w/);
    expect(JSON.stringify(findings)).not.toContain("hunter2");
  });

  test("because it is frozen fails in one line, and in time", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    proxy.freeze();
    const findings = await diagnose(createPool({ connectionString: proxy.url }), { deadline: "300ms" });
    expect(findings).toMatchObject([
      { check: "reachable", verdict: "fail", found: "Connecting failed: no answer within 300 ms" },
    ]);
    proxy.cut();
    await until(() => proxy.size === 0);
  });

  test("because it freezes midway fails in that line, and the rest is left out", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    // Frozen from the moment when the second connection is made, which is to prove that there is no pooler.
    let connections = 0;
    const pool = createPool({ connectionString: proxy.url });
    const { Client } = pool as unknown as { Client: new (options: object) => object };
    Object.assign(pool, {
      Client: class extends Client {
        constructor(options: object) {
          super(options);
          connections += 1;
          if (connections === 2) proxy.freeze();
        }
      },
    });
    const findings = await diagnose(pool, { deadline: "1s" });
    expect(findings[0]?.verdict).not.toBe("fail");
    expect(findings.filter(({ verdict }) => verdict === "fail")).toMatchObject([
      { check: "pooler", found: "Asking failed: no answer within 1000 ms" },
    ]);
    expect(findings.map(({ check }) => check)).not.toContain("locks");
    proxy.cut();
    await until(() => proxy.size === 0);
  });

  test.each([0, -1, "5", Number.POSITIVE_INFINITY])("with a deadline of %s rejects", async (deadline) => {
    await expect(diagnose(createPool(), { deadline })).rejects.toBeInstanceOf(InvalidConfigError);
  });
});

test("a standby fails, with the way out", async () => {
  await using primary = await startServer();
  await using standby = await primary.standby();
  const findings = await diagnose(createPool({ connectionString: standby.url }));
  expect(findingOf(findings, "recovery")).toMatchObject({
    verdict: "warn",
    advice: "Connect to the primary",
  });
  expect(findingOf(findings, "primary")).toEqual({
    check: "primary",
    verdict: "fail",
    found: "the server is a standby, whose locks exclude nobody on the primary",
    advice: "Connect to the primary",
  });
  expect(findingOf(findings, "fencing").verdict).toBe("warn");
});

describe("behind a pooler", () => {
  test("in transaction mode, the line fails, and no lock is tried", async () => {
    await using pooler = await ImitatedPooler.start(databaseUrl(), "transaction");
    const findings = await diagnose(createPool({ connectionString: pooler.url }));
    expect(findings.map(({ check }) => check)).toEqual(checks);
    expect(findingOf(findings, "pooler")).toMatchObject({ verdict: "fail" });
    expect(findingOf(findings, "pooler").advice).toContain("the server's own port");
    expect(findingOf(findings, "locks").verdict).toBe("warn");
    expect(findingOf(findings, "server-ttl").verdict).toBe("warn");
    expect(await advisoryLocks()).toEqual([]);
    // The session that all clients share still has its settings.
    const [shared] = (await createPool({ connectionString: pooler.url }).query("show idle_session_timeout"))
      .rows;
    expect(shared).toEqual({ idle_session_timeout: "0" });
  });

  test("in session mode, the line fails unless the locker is told, and locks are real", async () => {
    await using pooler = await ImitatedPooler.start(databaseUrl(), "session");
    const findings = await diagnose(createPool({ connectionString: pooler.url }));
    expect(findingOf(findings, "pooler")).toMatchObject({ verdict: "fail" });
    expect(findingOf(findings, "pooler").advice).toContain('pooler: "session"');
    expect(findingOf(findings, "locks").verdict).toBe("ok");
    expect(findings.filter(({ verdict }) => verdict === "fail")).toHaveLength(1);
    const trusted = await diagnose(createPool({ connectionString: pooler.url }), { pooler: "session" });
    expect(findingOf(trusted, "pooler")).toMatchObject({ verdict: "ok" });
  });

  describe.skipIf(!PgBouncer.installed)("PgBouncer (skipped where pgbouncer is not installed)", () => {
    test.each([
      { mode: "transaction", poolSize: 20, verdict: "fail" },
      { mode: "transaction", poolSize: 1, verdict: "fail" },
      { mode: "statement", poolSize: 20, verdict: "fail" },
      { mode: "session", poolSize: 20, verdict: "ok" },
    ] as const)("in $mode mode with $poolSize sessions: $verdict", async ({ mode, poolSize, verdict }) => {
      await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode, poolSize });
      const findings = await diagnose(createPool({ connectionString: bouncer.url }), { pooler: "session" });
      expect(findingOf(findings, "pooler")).toMatchObject({ verdict });
      expect(findingOf(findings, "locks").verdict).toBe(verdict === "fail" ? "warn" : "ok");
      expect(await advisoryLocks()).toEqual([]);
    });
  });
});

test("a server that answers true and locks nothing fails", async () => {
  await using other = await createDatabase();
  // The planner inlines an SQL function wherever it is called.
  await other.pool.query(
    "create or replace function pg_catalog.pg_try_advisory_lock(bigint) returns boolean language sql as 'select true'",
  );
  const locks = findingOf(await diagnose(other.pool), "locks");
  expect(locks).toMatchObject({ verdict: "fail" });
  expect(locks.found).toContain("does not keep them");
});

test("a server before 14 fails", async () => {
  await using other = await createDatabase();
  // It reports the version number of a 13.
  await other.pool.query(
    `create or replace function pg_catalog.current_setting(text) returns text stable language sql as
     $$ select case $1 when 'server_version_num' then '130014' when 'server_version' then '13.14'
               else pg_catalog.current_setting($1, false) end $$`,
  );
  expect(findingOf(await diagnose(other.pool), "version")).toEqual({
    check: "version",
    verdict: "fail",
    found: "PostgreSQL 13.14",
    advice: "Upgrade the server: PostgreSQL 14 is the oldest version supported",
  });
});

describe("what a role inherits", () => {
  test("is ok if a lock's session overrides it, and the line says where it comes from", async () => {
    await using role = await createRole();
    await onServer(`alter role ${role.name} set idle_session_timeout = '20min'`);
    await onServer(`alter role ${role.name} in database ${database} set statement_timeout = '30s'`);
    const timeouts = findingOf(await diagnose(createPool({ connectionString: role.url })), "timeouts");
    expect(timeouts).toEqual({
      check: "timeouts",
      verdict: "ok",
      found:
        "idle_session_timeout = 20m0s (of the role), statement_timeout = 30s (of the role in this database): " +
        "a lock's session sets its own",
    });
  });

  test("warns of what ends a transaction or the very statement that takes a lock", async () => {
    await using role = await createRole();
    await onServer(`alter role ${role.name} set statement_timeout = '900ms'`);
    await onServer(`alter role ${role.name} set idle_in_transaction_session_timeout = '10s'`);
    const findings = await diagnose(createPool({ connectionString: role.url }));
    const timeouts = findingOf(findings, "timeouts");
    expect(timeouts).toMatchObject({ verdict: "warn" });
    expect(timeouts.advice).toContain("statement_timeout is short");
    expect(timeouts.advice).toContain("idle_in_transaction_session_timeout may end a `withTransaction`");
    expect(findings.filter(({ verdict }) => verdict === "fail")).toEqual([]);
  });

  test.skipIf(inject("postgresMajor") < 17)("warns of transaction_timeout (skipped before 17)", async () => {
    await using role = await createRole();
    await onServer(`alter role ${role.name} set transaction_timeout = '20s'`);
    const timeouts = findingOf(await diagnose(createPool({ connectionString: role.url })), "timeouts");
    expect(timeouts).toMatchObject({ verdict: "warn", found: "transaction_timeout = 20s (of the role)" });
  });
});

test("a lock table warns when half full, and fails when nearly full", async () => {
  await using server = await startServer({
    settings: { max_locks_per_transaction: 10, max_connections: 20 },
  });
  const pool = createPool({ connectionString: server.url });
  const holder = await connect({ connectionString: server.url });
  const take = (from: number, to: number) =>
    holder.query("select pg_try_advisory_lock(id) from generate_series($1::int8, $2::int8) as id", [
      from,
      to,
    ]);
  const look = async (): Promise<Finding> => findingOf(await diagnose(pool), "lock-table");
  expect(await look()).toMatchObject({ verdict: "ok" });
  await take(1, 110);
  expect(await look()).toMatchObject({ verdict: "warn" });
  await take(111, 190);
  const full = await look();
  expect(full).toMatchObject({ verdict: "fail" });
  expect(full.found).toMatch(/^19\d of 200 locks in use \(9\d %\), 190 of them advisory$/);
  expect(full.advice).toContain("max_locks_per_transaction");
  // In the end the server lets nobody in.
  await expect(take(191, 1_000_000)).rejects.toMatchObject({ code: "53200" });
  const [refused, ...rest] = await diagnose(pool);
  expect(rest).toEqual([]);
  expect(refused).toMatchObject({ check: "reachable", verdict: "fail" });
  expect(refused?.advice).toContain("max_locks_per_transaction");
});

describe("connections", () => {
  test("that are nearly used up warn, and fail when there is none for a lock", async () => {
    await using server = await startServer({ settings: { max_connections: 30 } });
    const pool = createPool({ connectionString: server.url });
    const look = async (): Promise<Finding> => findingOf(await diagnose(pool), "connections");
    await until(async () => (await look()).found === "27 of 27 left for the server", { deadline: 15_000 });
    const others = Array.from({ length: 25 }, () => connect({ connectionString: server.url }));
    await Promise.all(others);
    expect(await look()).toMatchObject({ verdict: "warn", found: "2 of 27 left for the server" });
    await connect({ connectionString: server.url });
    const none = await look();
    expect(none).toMatchObject({ verdict: "fail", found: "1 of 27 left for the server" });
    expect(none.advice).toContain("max_connections");
  });

  test("of a role are limited, and the line says by what", async () => {
    await using role = await createRole();
    await onServer(`alter role ${role.name} connection limit 4`);
    const pool = createPool({ connectionString: role.url });
    const look = async (): Promise<Finding> => findingOf(await diagnose(pool), "connections");
    expect(await look()).toMatchObject({ verdict: "ok" });
    for (const _ of [1, 2, 3]) await connect({ connectionString: role.url });
    const findings = await diagnose(pool);
    expect(findingOf(findings, "connections")).toMatchObject({ verdict: "fail" });
    expect(findingOf(findings, "connections").found).toContain("1 of 4 left for the role");
    expect(findingOf(findings, "connections").advice).toContain("CONNECTION LIMIT");
    // One connection is left for the queries, but none for a check that needs two.
    expect(findingOf(findings, "locks")).toMatchObject({ verdict: "warn" });
    await connect({ connectionString: role.url });
    expect(await diagnose(pool)).toMatchObject([
      {
        check: "reachable",
        verdict: "fail",
        advice: "No connection is left for this role: close some, or raise the limit",
      },
    ]);
  });

  test("of a database are limited as well", async () => {
    await using role = await createRole();
    await using other = await createDatabase();
    await onServer(`alter database ${other.name} connection limit 3`);
    const url = urlWith({ database: other.name, user: role.name, password: "secret" });
    await connect({ connectionString: url });
    await connect({ connectionString: url });
    const connections = findingOf(await diagnose(createPool({ connectionString: url })), "connections");
    expect(connections).toMatchObject({ verdict: "fail" });
    expect(connections.found).toContain("1 of 3 left for the database");
  });
});

test("a clock that differs is at most a warning, and says that no lock depends on it", async () => {
  await using other = await createDatabase();
  await other.pool.query(
    `create or replace function pg_catalog.clock_timestamp() returns timestamptz volatile language sql as
     $$ select pg_catalog.statement_timestamp() + interval '1 hour' $$`,
  );
  const clock = findingOf(await diagnose(other.pool), "clock");
  expect(clock).toMatchObject({ verdict: "warn" });
  expect(clock.found).toMatch(/^the server's is 1h0m.*s ahead of this machine's|^the server's is 59m/);
  expect(clock.advice).toContain("No lock depends on it");
});

describe("fencing tokens", () => {
  test("warn if the role may not call the function that draws them", async () => {
    await using role = await createRole();
    await using other = await createDatabase();
    // A grant to everybody, but only in this database.
    await other.pool.query("revoke execute on function pg_walfile_name(pg_lsn) from public");
    const url = urlWith({ database: other.name, user: role.name, password: "secret" });
    expect(findingOf(await diagnose(createPool({ connectionString: url })), "fencing")).toMatchObject({
      verdict: "warn",
      found: "the role may not call pg_walfile_name, which `fencing: true` needs",
    });
  });

  test("warn if fsync is off, and mention a role's synchronous_commit", async () => {
    await using server = await startServer();
    const pool = createPool({ connectionString: server.url });
    expect(findingOf(await diagnose(pool), "fencing")).toMatchObject({ verdict: "warn" });
    const admin = await connect({ connectionString: server.url });
    await admin.query("alter role postgres set synchronous_commit = off");
    await admin.query("alter system set fsync = on");
    await admin.query("select pg_reload_conf()");
    await until(async () => findingOf(await diagnose(pool), "fencing").verdict === "ok", {
      deadline: 15_000,
    });
    const { found } = findingOf(await diagnose(pool), "fencing");
    expect(found).toContain("where the role has off");
  });

  test("that wait for a silent standby warn, or fail if wanted; the try is cancelled", async () => {
    await using server = await startServer();
    const pool = createPool({ connectionString: server.url });
    const admin = await connect({ connectionString: server.url });
    await makeCommitsWait(server.url);
    const fencing = async (options: DiagnosisOptions) =>
      findingOf(await diagnose(pool, { deadline: "1s", ...options }), "fencing");
    expect(await fencing({})).toMatchObject({
      verdict: "warn",
      found: expect.stringContaining("a token waits") as string,
    });
    expect(await fencing({ fencing: true })).toMatchObject({
      verdict: "fail",
      advice: expect.stringContaining("--no-fencing") as string,
    });
    expect(await fencing({ fencing: false })).toMatchObject({ verdict: "ok" });
    const waiting = "select from pg_stat_activity where wait_event = 'SyncRep'";
    await until(async () => (await admin.query(waiting)).rows.length === 0, { deadline: 5_000 });
  });
});

test("a TTL that the server can't enforce causes a warning", async () => {
  await using other = await createDatabase();
  await other.pool.query(
    `create or replace function pg_catalog.set_config(text, text, boolean) returns text volatile language sql as
     $$ select pg_catalog.current_setting('no_' || $1, false) $$`,
  );
  const ttl = findingOf(await diagnose(other.pool), "server-ttl");
  expect(ttl).toMatchObject({ verdict: "warn" });
  expect(ttl.found).toContain("no_idle_session_timeout");
  expect(ttl.advice).toContain('"client"');
});

function findingOf(findings: readonly Finding[], check: DiagnosisCheck): Finding {
  const found = findings.find((finding) => finding.check === check);
  if (found === undefined) throw new Error(`no ${check} among ${JSON.stringify(findings)}`);
  return found;
}

/** Creates a database for a single test, if the test would change the file's own. */
async function createDatabase() {
  const name = uniqueKey("database").replace(":", "_");
  await onServer(`create database ${name}`);
  const pool = createPool({ connectionString: urlWith({ database: name }) });
  return {
    name,
    pool,
    [Symbol.asyncDispose]: async () => {
      await pool.end();
      await onServer(`drop database ${name} with (force)`);
    },
  };
}

async function closedPort(): Promise<number> {
  const listener = createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const address = listener.address();
  listener.close();
  await once(listener, "close");
  return typeof address === "object" ? (address?.port ?? 1) : 1;
}
