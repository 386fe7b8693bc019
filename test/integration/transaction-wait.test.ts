import { readFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import { beforeEach, describe, expect, test } from "vitest";
import { LockerClosedError, lockId, type PostgresLocker, type TransactionClient } from "../../src/index.ts";
import { abortWhileItWaits, nobodyWaits, somebodyWaits } from "../support/aborted-wait.ts";
import {
  advisoryLocks,
  connect,
  createPool,
  createRole,
  databaseUrl,
  holdersOf,
  onServer,
  type Session,
  uniqueKey,
} from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { createLocker } from "../support/locker.ts";
import { PgBouncer } from "../support/pgbouncer.ts";
import { ServerLog } from "../support/server-log.ts";
import { startServer } from "../support/start-server.ts";
import { until } from "../support/until.ts";
import { emptyWrittenTable, write, written } from "../support/written-table.ts";

// withTransaction waits in the server, inside its transaction, for some seconds at a time.

emptyWrittenTable();

beforeEach(async () => {
  const client = await connect();
  await client.query("grant all on written to public");
});

const never = () => expect.unreachable();

/** A client of another library: it has only `query`, which may return values in other forms. */
function adapter(
  client: pg.ClientBase,
  read: (answer: string) => unknown = (answer) => answer,
): TransactionClient {
  return {
    query: async (text, values) => {
      expect(Array.isArray(values)).toBe(true);
      const { rows } = await client.query(text, values);
      return { rows: rows.map((row) => (row.answer === undefined ? row : { answer: read(row.answer) })) };
    },
  };
}

interface Ways {
  /** Runs `withTransaction` in one of the possible ways. `client`: the caller's client, if it is the caller's transaction. */
  run(
    locker: PostgresLocker,
    key: string,
    fn: () => unknown,
    options: { wait: string | true; signal?: AbortSignal },
  ): Promise<unknown>;
  readonly client?: Session;
}

const ways: ReadonlyArray<readonly [string, () => Promise<Ways>]> = [
  ["a transaction of its own", async () => ({ run: (locker, ...rest) => locker.withTransaction(...rest) })],
  [
    "a transaction of the caller's",
    async () => {
      const client = await connect();
      await client.query("begin");
      return {
        client,
        run: (locker, key, fn, options) => locker.withTransaction(key, fn, { ...options, client }),
      };
    },
  ],
  [
    "a transaction of another library's",
    async () => {
      const client = await connect();
      await client.query("begin");
      return {
        client,
        run: (locker, key, fn, options) => {
          const adapted = adapter(client, JSON.parse);
          return locker.withTransaction(key, fn, { ...options, client: adapted });
        },
      };
    },
  ],
];

describe.each(ways)("a wait in %s", (_, make) => {
  test("is a wait in the server, in order of arrival, and ends with the release", async () => {
    await using locker = createLocker();
    const { run, client } = await make();
    const holder = await connect();
    const key = uniqueKey();
    const id = lockId(0, key).toString();
    await holder.query("select pg_advisory_lock($1)", [id]);
    const order: string[] = [];
    const waiting = run(locker, key, () => void order.push("ours"), { wait: true });
    await until(somebodyWaits);
    const next = await connect();
    const after = next.query("select pg_advisory_lock($1)", [id]).then(() => order.push("psql"));
    await until(async () => (await advisoryLocks()).filter(({ granted }) => !granted).length === 2);
    await holder.query("select pg_advisory_unlock($1)", [id]);
    await waiting;
    await client?.query("commit");
    await after;
    expect(order).toEqual(["ours", "psql"]);
  });

  test("goes on after a bound of the server's, and is granted then", async () => {
    await using locker = createLocker();
    const { run, client } = await make();
    const holder = await connect();
    const key = uniqueKey();
    const id = lockId(0, key).toString();
    await holder.query("select pg_advisory_lock($1)", [id]);
    const waiting = run(locker, key, () => "granted", { wait: "30s" });
    await until(somebodyWaits);
    // As the bound would do: the server may end a wait at any time.
    for (let round = 0; round < 3; round += 1) {
      await until(somebodyWaits);
      await onServer(
        "select pg_cancel_backend(pid) from pg_locks where not granted and locktype = 'advisory' and objid = $1::bigint & 4294967295",
        [id],
      );
    }
    await until(somebodyWaits);
    await holder.query("select pg_advisory_unlock($1)", [id]);
    expect(await waiting).toBe("granted");
    await client?.query("commit");
  });

  test("an abort, a bound that passes and a close() end it at once, without a trace", async () => {
    const pool = createPool();
    await using locker = createLocker({ pool });
    const closing = createLocker({ pool });
    const { run, client } = await make();
    await client?.query(write, ["before"]);
    const holder = await connect();
    const key = uniqueKey();
    await holder.query("select pg_advisory_lock($1)", [lockId(0, key).toString()]);
    const aborting = new AbortController();
    const reason = new Error("the caller's own");

    const start = performance.now();
    const aborted = run(locker, key, never, { wait: true, signal: aborting.signal });
    await until(somebodyWaits);
    aborting.abort(reason);
    await expect(aborted).rejects.toBe(reason);
    await until(nobodyWaits);
    await client?.query("select 1");

    const passed = run(locker, key, never, { wait: "50ms" });
    await expect(passed).rejects.toMatchObject({ reason: "wait-timeout", waited: 50 });
    await client?.query("select 1");

    const closed = run(closing, key, never, { wait: true });
    closed.catch(() => {});
    await until(somebodyWaits);
    await closing.close();
    await expect(closed).rejects.toBeInstanceOf(LockerClosedError);
    await until(nobodyWaits);
    // Well below the server's bound.
    expect(performance.now() - start).toBeLessThan(4_000);
    await until(() => pool.idleCount === pool.totalCount);
    await holder.query("select pg_advisory_unlock_all()");
    expect(await advisoryLocks()).toEqual([]);
    await client?.query("commit");
    if (client !== undefined) expect(await written()).toEqual(["before"]);
  });
});

// Over postgres.js, the locker's connections don't queue in the test's pool.
const limits = [["", -1] as const, ...(isOverPostgresJs ? [] : [[" and so is the role", 2] as const])];

test.each(limits)(
  "an abort cancels the wait of an ORM's client, though the pool is full%s",
  async (_, limit) => {
    await using server = await startServer({ settings: { log_statement: "all" } });
    const holder = await connect({ connectionString: server.url });
    await holder.query(`create role few login connection limit ${limit}`);
    const url = new URL(server.url);
    url.username = "few";
    const pool = createPool({ connectionString: url.href, max: 1 });
    await using locker = createLocker({ pool });
    const key = uniqueKey();
    await holder.query("select pg_advisory_lock($1)", [lockId(0, key).toString()]);
    const inUse = await pool.connect();
    const client = await connect({ connectionString: url.href });
    await client.query("begin");
    const log = new ServerLog(server);
    await log.mark();
    const aborting = new AbortController();
    const options = { client: adapter(client), wait: true, signal: aborting.signal } as const;
    const aborted = locker.withTransaction(key, never, options);
    aborted.catch(() => {});
    await until(async () => (await holder.query("select from pg_locks where not granted")).rowCount === 1);
    aborting.abort(new Error("left"));
    if (limit === 2) {
      await until(() => pool.waitingCount === 1);
      inUse.release();
    }
    await expect(aborted).rejects.toThrow("left");
    const texts = (await log.entries()).map(({ text }) => text);
    expect(texts).toContainEqual(expect.stringContaining("pg_cancel_backend"));
    await client.query("rollback");
    if (limit !== 2) inUse.release();
  },
);

test("a wait leaves no line in the server's log, however it ends", async () => {
  await using server = await startServer();
  const url = server.url;
  const client = await connect({ connectionString: url });
  const holder = await connect({ connectionString: url });
  const pool = createPool({ connectionString: url });
  await using locker = createLocker({ pool });
  const key = uniqueKey();
  await holder.query("select pg_advisory_lock($1)", [lockId(0, key).toString()]);
  const log = join(dirname(server.dataDirectory), "server.log");
  const before = await readFile(log, "utf8");
  await client.query("begin");
  const all: Array<{ client?: TransactionClient }> = [{}, { client }, { client: adapter(client) }];
  for (const options of all) {
    const aborting = new AbortController();
    const signal = aborting.signal;
    const aborted = locker.withTransaction(key, never, { ...options, wait: true, signal });
    aborted.catch(() => {});
    await until(async () => (await holder.query("select from pg_locks where not granted")).rowCount === 1);
    aborting.abort(new Error("left"));
    await expect(aborted).rejects.toThrow("left");
    const passed = locker.withTransaction(key, never, { ...options, wait: "30ms" });
    await expect(passed).rejects.toMatchObject({ reason: "wait-timeout" });
  }
  await client.query("commit");
  await holder.query("do $$ begin raise log 'the end of the test'; end $$");
  const after = await until(async () => {
    const text = await readFile(log, "utf8");
    return text.includes("the end of the test") && text.slice(before.length);
  });
  expect(after.split("\n").filter((line) => /ERROR|WARNING|FATAL/.test(line))).toEqual([]);
});

test("a transaction's own settings do not end the wait, and are as they were after it", async () => {
  await using locker = createLocker({
    pool: createPool({ options: "-c statement_timeout=400 -c lock_timeout=200" }),
  });
  const holder = await connect();
  const key = uniqueKey();
  await holder.query("select pg_advisory_lock($1)", [lockId(0, key).toString()]);
  const settings =
    "select current_setting('lock_timeout') || ' ' || current_setting('statement_timeout') as both";
  const waiting = locker.withTransaction(key, async (client) => (await client.query(settings)).rows[0], {
    wait: "20s",
  });
  const pid = async () => (await advisoryLocks()).find(({ granted }) => !granted)?.pid;
  const first = await until(pid);
  const start = performance.now();
  await until(async () => performance.now() - start > 700 && (await pid()) === first);
  await holder.query("select pg_advisory_unlock_all()");
  expect(await waiting).toEqual({ both: "200ms 400ms" });
});

test("of two transactions that wait for each other one is told of a deadlock", async () => {
  await using locker = createLocker();
  const keys = [uniqueKey(), uniqueKey()] as const;
  let inside = 0;
  const both = async (first: string, second: string) =>
    locker.withTransaction(first, async (client: pg.PoolClient) => {
      inside += 1;
      await until(() => inside === 2);
      return locker.withTransaction(second, (tx) => tx.query(write, [first]), { client, wait: true });
    });
  const outcomes = await Promise.allSettled([both(keys[0], keys[1]), both(keys[1], keys[0])]);
  const failed = outcomes.flatMap((each) => (each.status === "rejected" ? [each.reason] : []));
  expect(failed).toHaveLength(1);
  expect(failed[0]).toMatchObject({
    name: "DatabaseError",
    sqlState: "40P01",
    message: expect.stringMatching(
      /^A deadlock with another transaction: waiting for the lock "key:.*" failed: /,
    ),
  });
  expect(await written()).toHaveLength(1);
});

test("a deadlock with rows leaves the caller's transaction for the caller to end", async () => {
  await using locker = createLocker();
  const [one, two] = [await connect(), await connect()];
  const key = uniqueKey();
  await one.query(write, ["row"]);
  await two.query("begin");
  await locker.withTransaction(key, () => {}, { client: two });
  await one.query("begin");
  await one.query("update written set what = 'by one'");
  const outcome = locker
    .withTransaction(key, () => "one", { client: one, wait: true })
    .catch((error: unknown) => error);
  await until(somebodyWaits);
  const update = two.query("update written set what = 'by two'").catch((error: unknown) => error);
  const first = await Promise.race([outcome, update]);
  expect(first).toMatchObject(
    first instanceof Error && "sqlState" in first ? { sqlState: "40P01" } : { code: "40P01" },
  );
  if (first === (await Promise.race([outcome, "other"]))) {
    // Its own attempt was the one that failed: the transaction goes on.
    await one.query("select 1");
    await one.query("rollback");
    await update;
    await two.query("commit");
  } else {
    await two.query("rollback");
    expect(await outcome).toBe("one");
    await one.query("commit");
  }
});

test("a wait keeps no snapshot beyond its bound, and no id in its own transaction", async () => {
  await using locker = createLocker();
  const holder = await connect();
  const key = uniqueKey();
  await holder.query("select pg_advisory_lock($1)", [lockId(0, key).toString()]);
  const aborting = new AbortController();
  const waiting = locker.withTransaction(key, never, { wait: true, signal: aborting.signal });
  waiting.catch(() => {});
  await until(somebodyWaits);
  const looks = async () =>
    onServer<{ xid: unknown; started: string; xmin: string | null }>(
      `select backend_xid as xid, backend_xmin::text as xmin, xact_start::text as started from pg_stat_activity
        where pid in (select pid from pg_locks where not granted and locktype = 'advisory' and database = (
          select oid from pg_database where datname = $1))`,
      [new URL(databaseUrl()).pathname.slice(1)],
    );
  const [first] = await until(async () => {
    const found = await looks();
    return found.length === 1 && found;
  });
  expect(first?.xid).toBeNull();
  const next = await until(
    async () => {
      const [found] = await looks();
      return found !== undefined && found.started !== first?.started && found;
    },
    { deadline: 12_000 },
  );
  expect(next.xid).toBeNull();
  aborting.abort(new Error("left"));
  await expect(waiting).rejects.toThrow("left");
  await holder.query("select pg_advisory_unlock_all()");
}, 30_000);

test("a storm of aborts leaves the caller's transaction usable, without the lock", async () => {
  await using locker = createLocker();
  const client = await connect();
  const holder = await connect();
  const key = uniqueKey();
  const id = lockId(0, key).toString();
  await client.query("begin");
  await client.query(write, ["kept"]);
  const reason = new Error("left");
  let granted = 0;
  for (let round = 0; round < 150; round += 1) {
    await holder.query("select pg_advisory_lock($1)", [id]);
    const aborting = new AbortController();
    const outcome = locker
      .withTransaction(key, () => "granted", { client, wait: true, signal: aborting.signal })
      .catch((error: unknown) => error);
    await delay(Math.random() * 6);
    const released = holder.query("select pg_advisory_unlock($1)", [id]);
    if (round % 3 === 0) await released;
    aborting.abort(reason);
    await released;
    const result = await outcome;
    const held = await holdersOf(BigInt(id));
    if (result === "granted") {
      granted += 1;
      expect(held).toEqual([client.processID]);
      await client.query("commit; begin");
    } else {
      expect(result).toBe(reason);
      expect(held).toEqual([]);
    }
    await client.query("select 1");
  }
  expect(granted).toBeLessThan(150);
  await client.query("commit");
  expect(await written()).toEqual(["kept"]);
});

test("a role without plpgsql waits too, and its transaction survives the bound", async () => {
  const own = await connect();
  await using role = await createRole();
  await own.query("revoke usage on language plpgsql from public");
  try {
    await using locker = createLocker({ pool: createPool({ connectionString: role.url }) });
    const client = await connect({ connectionString: role.url });
    const holder = await connect();
    const key = uniqueKey();
    const id = lockId(0, key).toString();
    await client.query("begin");
    await client.query(write, ["before"]);
    for (const options of [{}, { client }]) {
      await holder.query("select pg_advisory_lock($1)", [id]);
      const passed = locker.withTransaction(key, never, { ...options, wait: "50ms" });
      await expect(passed).rejects.toMatchObject({ reason: "wait-timeout" });
      await abortWhileItWaits((signal) =>
        locker.withTransaction(key, never, { ...options, wait: true, signal }),
      );
      const waiting = locker.withTransaction(key, () => "granted", { ...options, wait: true });
      await until(somebodyWaits);
      await holder.query("select pg_advisory_unlock_all()");
      expect(await waiting).toBe("granted");
    }
    await client.query("commit");
    expect(await written()).toEqual(["before"]);
    await client.end();
    await locker.close();
  } finally {
    await own.query("grant usage on language plpgsql to public");
    await own.query("revoke all on written from public");
  }
});

test.each<readonly [string, (answer: string) => unknown]>([
  ["as the server wrote it", (answer) => answer],
  ["read as JSON", (answer) => JSON.parse(answer)],
])("another library's client with %s answers acquires, waits and tells of a loss", async (_, read) => {
  await using locker = createLocker();
  const session = await connect();
  const client = adapter(session, read);
  const key = uniqueKey();
  await session.query("begin");
  await locker.withTransaction(key, (tx) => tx.query(write, ["one"]), { client });
  expect(await holdersOf(lockId(0, key))).toEqual([session.processID]);
  await session.query("commit; begin");
  const gone = locker.withTransaction(key, (tx) => tx.query("rollback", []), { client });
  await expect(gone).rejects.toThrow(/ended the lock/);
  expect(await written()).toEqual(["one"]);
});

test.each<readonly [string, unknown]>([
  ["no method `query`", {}],
  ["a `query` that is no function", { query: "select 1" }],
  ["a `query` that returns nothing", { query: async () => undefined }],
  ["a `query` that returns an array of rows", { query: async () => [{ answer: "{}" }] }],
  ["rows of other columns", { query: async () => ({ rows: [{ one: '{"held":true}', two: 2 }] }) }],
  ["an answer without members", { query: async () => ({ rows: [{ answer: "{}" }] }) }],
  ["a value that is no JSON", { query: async () => ({ rows: [{ answer: "yes" }] }) }],
  ["null", null],
  ["a string", "postgres://user:secret@host/db"],
])("a client with %s is refused, by its field", async (_, client) => {
  await using locker = createLocker();
  for (const wait of [0, true] as const) {
    const running = locker.withTransaction(uniqueKey(), never, { client: client as TransactionClient, wait });
    await expect(running).rejects.toMatchObject({ name: "InvalidConfigError", field: "client" });
    await expect(running).rejects.not.toThrow(/secret/);
  }
});

test.skipIf(!PgBouncer.installed)(
  "a transaction waits through PgBouncer in transaction mode, in either way",
  async () => {
    await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "transaction", poolSize: 4 });
    await using locker = createLocker({ pool: createPool({ connectionString: bouncer.url }) });
    const client = await connect({ connectionString: bouncer.url });
    const holder = await connect();
    const key = uniqueKey();
    const id = lockId(0, key).toString();
    await client.query("begin");
    for (const options of [{}, { client }]) {
      await holder.query("select pg_advisory_lock($1)", [id]);
      await abortWhileItWaits((signal) =>
        locker.withTransaction(key, never, { ...options, wait: true, signal }),
      );
      const waiting = locker.withTransaction(key, () => "granted", { ...options, wait: true });
      await until(somebodyWaits);
      await holder.query("select pg_advisory_unlock_all()");
      expect(await waiting).toBe("granted");
    }
    await client.query("commit");
    await client.end();
    await locker.close();
  },
);
