import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { diagnose, endHolders, listLocks, lockId } from "../../src/index.ts";
import { advisoryLocks, connect, createPool, createRole, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

// A schema in front of pg_catalog with operators, types, functions and relations that have the usual names. A statement that uses any of
// them fails.

const hostile = `
create schema evil;
grant usage on schema evil to public;
do $$
declare
  pair pg_catalog.text[];
  name pg_catalog.text;
begin
  foreach pair slice 1 in array array[
    ['int4', 'int4'], ['int8', 'int8'], ['int8', 'int4'], ['int4', 'int8'], ['int2', 'int4'], ['text', 'text'], ['name', 'name'],
    ['name', 'text'], ['oid', 'oid'], ['oid', 'int8'], ['oid', 'regnamespace'], ['"char"', '"char"'], ['numeric', 'numeric'],
    ['numeric', 'int4'], ['float8', 'float8'], ['bool', 'bool']]
  loop
    execute format('create function evil.refuse(pg_catalog.%s, pg_catalog.%s) returns pg_catalog.bool language plpgsql
                    as ''begin raise exception ''''a hostile operator''''; end''', pair[1], pair[2]);
    execute format('grant execute on function evil.refuse(pg_catalog.%s, pg_catalog.%s) to public', pair[1], pair[2]);
    foreach name in array array['=', '<>', '<', '>', '<=', '>=', '<<', '>>', '|', '&', '+', '-', '*', '/', '||'] loop
      execute format('create operator evil.%s (leftarg = pg_catalog.%s, rightarg = pg_catalog.%s, function = evil.refuse)',
        name, pair[1], pair[2]);
    end loop;
  end loop;
  foreach name in array array['int2', 'int4', 'int8', 'text', 'bool', 'oid', '"char"', 'bit', 'json', 'name', 'regtype', 'regnamespace'] loop
    execute format('create type evil.%s as enum (''a hostile type'')', name);
  end loop;
  foreach name in array array[
    'pg_backend_pid()', 'pg_is_in_recovery()', 'current_database()', 'pg_advisory_unlock_all()', 'clock_timestamp()',
    'pg_try_advisory_lock(pg_catalog.int8)', 'pg_advisory_lock(pg_catalog.int8)', 'pg_advisory_unlock(pg_catalog.int8)',
    'pg_try_advisory_xact_lock(pg_catalog.int8)', 'current_setting(pg_catalog.text)', 'pg_lock_status()',
    'set_config(pg_catalog.text, pg_catalog.text, pg_catalog.bool)', 'unnest(pg_catalog.anyarray)', 'to_json(pg_catalog.anyelement)',
    'pg_terminate_backend(pg_catalog.int4)', 'count(pg_catalog.anyelement)'] loop
    execute format('create function evil.%s returns pg_catalog.text language plpgsql
                    as ''begin raise exception ''''a hostile function''''; end''', name);
  end loop;
end $$;
create table evil.pg_locks ();
create table evil.pg_stat_activity ();
create table evil.pg_database ();
create table evil.pg_settings ();
create table evil.pg_roles ();`;

let role: Awaited<ReturnType<typeof createRole>>;

beforeAll(async () => {
  const admin = await connect();
  await admin.query(hostile);
  role = await createRole();
  await admin.query(`alter role ${role.name} set search_path = evil, pg_catalog`);
  await admin.end();
});

afterAll(async () => {
  await role[Symbol.asyncDispose]();
});

describe("as a role whose search_path has a hostile schema first", () => {
  test.each([
    "select 1 = 1",
    "select 1::pg_catalog.int8 << 32",
    "select pg_catalog.pg_backend_pid() <> 1::pg_catalog.int4",
    "select 'a'::text",
    "select '1'::int8",
    `select 'a'::"char"`,
    "select case 1 when 1 then 2 end",
    "select pg_backend_pid()",
    "select from pg_locks where pid is null",
  ])("a statement that leaves a name to the search_path fails: %s", async (sql) => {
    const session = await connect({ connectionString: role.url });
    await expect(session.query(sql)).rejects.toThrow(/hostile|invalid input value for enum|does not exist/);
  });

  for (const sessions of ["shared", "dedicated"] as const) {
    for (const ttlEnforcement of ["client", "server"] as const) {
      test(`every operation works as usual: ${sessions} sessions, TTLs of the ${ttlEnforcement}`, async () => {
        const pool = createPool({ connectionString: role.url, max: 20 });
        const options = { pool, sessions, ttlEnforcement };
        await using locker = createLocker(options);
        await using other = createLocker(options);
        const [key, group] = [uniqueKey(), Array.from({ length: 9 }, (_, at) => uniqueKey(`group ${at}`))];

        const lock = await locker.acquire(key);
        expect(await other.tryAcquire(key)).toBeUndefined();
        await lock.refresh("20s");
        expect([lock.held, lock.ttl]).toEqual([true, 20_000]);
        const waiting = other.acquire(key, { wait: "10s" });
        await until(async () => (await advisoryLocks()).some(({ granted }) => !granted));
        await lock.release();
        const waited = await waiting;
        expect(await locker.tryAcquire(key)).toBeUndefined();
        await waited.release();

        const [first, second] = await Promise.all([
          locker.acquire(key, { mode: "shared" }),
          other.acquire(key, { mode: "shared" }),
        ]);
        const third = await locker.acquire(key, { mode: "shared" });
        expect(await locker.tryAcquire(key)).toBeUndefined();
        await Promise.all([first.release(), second.release(), third.release()]);

        const fenced = await locker.acquire(key, { fencing: true });
        await fenced.release();
        const after = await other.acquire(key, { fencing: true });
        expect(after.fencingToken).toBeGreaterThan(fenced.fencingToken as bigint);
        const awaited = locker.acquire(key, { fencing: true, wait: "10s" });
        await until(async () => (await advisoryLocks()).some(({ granted }) => !granted));
        await after.release();
        const last = await awaited;
        expect(last.fencingToken).toBeGreaterThan(after.fencingToken as bigint);
        await last.release();

        const all = await locker.acquireAll(group);
        expect(await advisoryLocks()).toHaveLength(group.length);
        await expect(other.acquireAll(group.slice(3))).rejects.toMatchObject({ reason: "held" });
        await all.release();
        await locker.ping();
        expect(await advisoryLocks()).toEqual([]);
      });
    }
  }

  test("withTransaction, listLocks and endHolders work as usual", async () => {
    const pool = createPool({ connectionString: role.url });
    await using locker = createLocker({ pool });
    const key = uniqueKey();
    await locker.withTransaction(key, async () => {
      expect(await locker.tryAcquire(key)).toBeUndefined();
    });
    const lock = await locker.acquire(key, { mode: "shared" });
    const id = lockId(0, key);
    expect(await listLocks(pool)).toMatchObject([{ id, mode: "shared", state: "held", user: role.name }]);
    expect(await listLocks(pool, { id: id + 1n })).toEqual([]);
    const pid = (await listLocks(pool, { id }))[0]?.pid ?? 0;
    expect(await endHolders(pool, { id, pids: [pid] })).toEqual([pid]);
    await until(() => lock.signal.aborted);
  });

  test("the diagnosis finds the same as usual", async () => {
    const friend = await createRole();
    const [found, expected] = [
      await diagnose(createPool({ connectionString: role.url })),
      await diagnose(createPool({ connectionString: friend.url })),
    ];
    await friend[Symbol.asyncDispose]();
    const told = (findings: typeof found): unknown =>
      findings.map(({ check, verdict }) => (check === "reachable" ? check : [check, verdict]));
    expect(told(found)).toEqual(told(expected));
  });
});
