import { afterEach, beforeAll, beforeEach, describe, expect, inject, test, vi } from "vitest";
import { DatabaseError, type PostgresLocker } from "../../src/index.ts";
import { WaitingServer } from "../support/bounded-wait.ts";
import { Child } from "../support/child.ts";
import { createPool, uniqueKey } from "../support/database.ts";
import { Fleet, HeldByHand } from "../support/fleet.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

// Waiters beside others that know nothing of this library: psql, the Go package, an index build, a vacuum, a role with settings.

// Generous, because the machine may be busy.
vi.setConfig({ testTimeout: 60_000 });

let server: WaitingServer;

beforeAll(async () => {
  server = await WaitingServer.start({ max_connections: 300 });
  return () => server[Symbol.asyncDispose]();
});
beforeEach(() => server.log.mark());
afterEach(() => server.nothingLeft());

const lock = "select pg_advisory_lock($1)";
const unlock = "select pg_advisory_unlock($1)";

describe("beside clients that queue in the server without a pause", () => {
  test.each(["exclusive", "shared"] as const)("a waiter has its turn each round (%s)", async (mode) => {
    await using fleet = await Fleet.start(1, server.url);
    const held = await HeldByHand.on(server);
    const start = () =>
      Child.start("queue-in-server.mjs", {
        args: [held.id.toString(), "5"],
        env: { DATABASE_URL: server.url },
      });
    await using one = start();
    await using two = start();
    await server.waiters(held.id, 2);
    await held.session.end();
    const times = () => one.messages.length + two.messages.length;
    await until(() => times() > 10);
    const turns: number[] = [];
    for (let turn = 0; turn < 20; turn += 1) {
      const before = times();
      const mine = await fleet.first.acquire(held.key, { wait: "10s", mode });
      turns.push(times() - before);
      await mine.release();
    }
    turns.sort((a, b) => a - b);
    // One each, if it came at once. On a busy machine some may be late.
    expect(turns[10]).toBeLessThan(10);
  });
});

describe("beside psql", () => {
  test("the order is that of arrival", async () => {
    await using held = await HeldByHand.on(server);
    await using fleet = await Fleet.start(2, server.url);
    const [first, second] = fleet.lockers as [PostgresLocker, PostgresLocker];
    const psql = await server.connect();
    const order: string[] = [];
    const by = (locker: PostgresLocker, name: string) =>
      locker.acquire(held.key, { wait: true }).then(async (mine) => {
        order.push(name);
        await mine.release();
      });
    const one = by(first, "locker 1");
    await server.waiters(held.id, 1);
    const plain = psql.query(lock, [held.id.toString()]).then(async () => {
      order.push("psql");
      await psql.query(unlock, [held.id.toString()]);
    });
    await server.waiters(held.id, 2);
    const two = by(second, "locker 2");
    await server.waiters(held.id, 3);
    await held.release();
    await Promise.all([one, plain, two]);
    expect(order).toEqual(["locker 1", "psql", "locker 2"]);
  });

  test("a try overtakes no waiter, not even a reader's try", async () => {
    await using held = await HeldByHand.on(server, "shared");
    await using fleet = await Fleet.start(1, server.url);
    const psql = await server.connect();
    const waiting = psql.query(lock, [held.id.toString()]);
    await server.waiters(held.id, 1);
    expect(await fleet.first.tryAcquire(held.key, { mode: "shared" })).toBeUndefined();
    await held.release();
    await waiting;
    await psql.query(unlock, [held.id.toString()]);
  });
});

describe("a reader", () => {
  test("behind a waiting writer of another locker comes after it, and readers together", async () => {
    await using held = await HeldByHand.on(server, "shared");
    await using fleet = await Fleet.start(4, server.url);
    const order: string[] = [];
    const waits: Promise<void>[] = [];
    let readers = 0;
    let most = 0;
    for (const [number, locker] of fleet.lockers.entries()) {
      const mode = number === 0 ? "exclusive" : "shared";
      waits.push(
        locker.acquire(held.key, { wait: true, mode }).then(async (mine) => {
          order.push(mode);
          if (mode === "shared") {
            readers += 1;
            most = Math.max(most, readers);
            await until(() => most === 3);
          }
          await mine.release();
        }),
      );
      await server.waiters(held.id, number + 1);
    }
    await held.release();
    await Promise.all(waits);
    expect(order).toEqual(["exclusive", "shared", "shared", "shared"]);
  });

  test("of the same locker, behind its own waiting writer, comes after it as well", async () => {
    await using held = await HeldByHand.on(server, "shared");
    await using fleet = await Fleet.start(1, server.url);
    const order: string[] = [];
    const wait = (mode: "exclusive" | "shared") =>
      fleet.first.acquire(held.key, { wait: true, mode }).then(async (mine) => {
        order.push(mode);
        await mine.release();
      });
    const writer = wait("exclusive");
    await server.waiters(held.id, 1);
    const reader = wait("shared");
    await held.release();
    await Promise.all([writer, reader]);
    expect(order).toEqual(["exclusive", "shared"]);
  });
});

test("a hundred waits keep no snapshot beyond a bound, an index build beyond two", async () => {
  const bound = 5_000;
  await using fleet = await Fleet.start(100, server.url);
  await using held = await HeldByHand.on(server);
  const indexer = await server.connect();
  await indexer.query("create table indexed as select generate_series(1, 1000) as i");
  const waits = fleet.lockers.map((locker) =>
    locker.acquire(held.key, { wait: true }).then((mine) => mine.release()),
  );
  await server.waiters(held.id, 100);
  let oldest = 0;
  const start = performance.now();
  let built: number | undefined;
  const building = indexer.query("create index concurrently on indexed (i)").then(() => {
    built = performance.now() - start;
  });
  while (built === undefined) {
    const [row] = await server.rows<{ age: number | null }>(
      `select max(extract(epoch from clock_timestamp() - query_start))::float8 * 1000 as age from pg_stat_activity
        where backend_xmin is not null and application_name like 'pg-locker %'`,
    );
    oldest = Math.max(oldest, row?.age ?? 0);
    expect(performance.now() - start).toBeLessThan(4 * bound);
  }
  await building;
  expect(oldest).toBeLessThan(bound + 2_000);
  await held.release();
  await Promise.all(waits);
  await indexer.query("drop table indexed");
}, 60_000);

// https://www.postgresql.org/docs/current/runtime-config-client.html
describe("a role with", () => {
  const settings = [
    "lock_timeout = '200ms'",
    "statement_timeout = '200ms'",
    "idle_session_timeout = '200ms'",
    "idle_in_transaction_session_timeout = '200ms'",
    ...(inject("postgresMajor") >= 17 ? ["transaction_timeout = '200ms'"] : []),
    "default_transaction_isolation = 'serializable'",
    "default_transaction_read_only = on",
    "client_connection_check_interval = '100ms'",
    "search_path = nowhere",
  ];

  test.each(["shared", "dedicated"] as const)(
    `settings of its own waits as any other, and logs nothing (%s sessions; ${settings.map((setting) => setting.split(" ")[0]).join(", ")})`,
    async (sessions) => {
      const role = uniqueKey("role").replace(":", "_");
      await server.rows(`create role ${role} login`);
      for (const setting of settings) await server.rows(`alter role ${role} set ${setting}`);
      const url = new URL(server.url);
      url.username = role;
      await using held = await HeldByHand.on(server);
      await using fleet = await Fleet.start(1, url.href, { sessions });
      const waiting = fleet.first.acquire(held.key, { wait: "30s", autoRefresh: true });
      const before = await server.waiters(held.id, 1);
      await server.rows("select pg_sleep(0.7)");
      // The waits run at the same time, not one after another.
      expect(await server.pidsOf(held.id, "waiting")).toEqual(before);
      await held.release();
      const mine = await waiting;
      await server.rows("select pg_sleep(0.5)");
      expect(mine.held).toBe(true);
      expect(await server.pidsOf(held.id, "granted")).toHaveLength(1);
      await mine.release();
      // What the pool leaves idle is the role's own business.
      const complaints = await server.log.complaints();
      expect(complaints.filter(({ text }) => !text.includes("idle-session timeout"))).toEqual([]);
    },
  );

  test("no right to plpgsql waits with the plain statement", async () => {
    const [role, database] = ["role", "database"].map((prefix) => uniqueKey(prefix).replace(":", "_"));
    await server.rows(`create role ${role} login`);
    await server.rows(`create database ${database}`);
    const url = new URL(server.url);
    url.pathname = `/${database}`;
    const owner = await server.connect({ connectionString: url.href });
    await owner.query("revoke usage on language plpgsql from public");
    url.username = role as string;
    const key = uniqueKey();
    const pool = createPool({ connectionString: url.href });
    await using holder = createLocker({ pool: createPool({ connectionString: url.href }) });
    await using locker = createLocker({ pool });
    const first = await holder.acquire(key);
    const waiting = locker.acquire(key, { wait: true });
    await server.waiters(first.id, 1);
    await first.release();
    const mine = await waiting;
    await expect(holder.acquire(key, { wait: "300ms" })).rejects.toMatchObject({ reason: "wait-timeout" });
    const aborting = new AbortController();
    const aborted = holder.acquire(key, { wait: true, signal: aborting.signal }).catch((error) => error);
    await server.waiters(first.id, 1);
    aborting.abort("enough");
    expect(await aborted).toBe("enough");
    await until(async () => (await server.pidsOf(first.id, "waiting")).length === 0);
    await mine.release();
  });
});

describe("a transaction that waits", () => {
  test("for a lock whose holder waits for its row is told of a deadlock", async () => {
    await server.rows("create table if not exists rows_of (id int primary key, n int)");
    await server.rows("insert into rows_of values (1, 0), (2, 0) on conflict do nothing");
    await using fleet = await Fleet.start(2, server.url, { poolConfig: { max: 3 } });
    const [one, two] = fleet.lockers as [PostgresLocker, PostgresLocker];
    const [keyOne, keyTwo] = [uniqueKey(), uniqueKey()];
    // Each takes its own lock, and then wants the other's, in one transaction.
    let inside = 0;
    const both = () => until(() => inside >= 2);
    const run = (locker: PostgresLocker, mine: string, theirs: string) =>
      locker.withTransaction(mine, async (client) => {
        inside += 1;
        await both();
        await locker.withTransaction(theirs, () => {}, { wait: "15s", client });
      });
    const results = await Promise.allSettled([run(one, keyOne, keyTwo), run(two, keyTwo, keyOne)]);
    const failed = results.filter((result) => result.status === "rejected");
    expect(failed).toHaveLength(1);
    expect(failed[0]?.reason).toBeInstanceOf(DatabaseError);
    expect(failed[0]?.reason).toMatchObject({ sqlState: "40P01" });
  });

  test("waits in the server, and has the lock when it comes free", async () => {
    await using fleet = await Fleet.start(1, server.url, { poolConfig: { max: 2 } });
    await using held = await HeldByHand.on(server);
    const waiting = fleet.first.withTransaction(held.key, () => "done", { wait: true });
    await server.waiters(held.id, 1);
    await held.release();
    expect(await waiting).toBe("done");
    expect(await server.pidsOf(held.id, "granted")).toEqual([]);
  });

  test("and whose time passes is rolled back, and nothing of it is in the log", async () => {
    await using fleet = await Fleet.start(1, server.url, { poolConfig: { max: 2 } });
    await using held = await HeldByHand.on(server);
    const refused = fleet.first.withTransaction(held.key, () => expect.unreachable(), { wait: "300ms" });
    await expect(refused).rejects.toMatchObject({ reason: "wait-timeout" });
    await until(async () => (await server.pidsOf(held.id, "waiting")).length === 0, { deadline: 1_000 });
    expect(await server.log.complaints()).toEqual([]);
  });
});

test("log_lock_waits writes once for each wait in the server, and once at the grant", async () => {
  const role = uniqueKey("role").replace(":", "_");
  await server.rows(`create role ${role} superuser login`);
  await server.rows(`alter role ${role} set log_lock_waits = on`);
  await server.rows(`alter role ${role} set deadlock_timeout = '100ms'`);
  const url = new URL(server.url);
  url.username = role;
  await using held = await HeldByHand.on(server);
  await using fleet = await Fleet.start(1, url.href);
  const waiting = fleet.first.acquire(held.key, { wait: true });
  const [pid] = await server.waiters(held.id, 1);
  await until(async () => (await server.log.entries(pid)).length > 0);
  await held.release();
  await (await waiting).release();
  const lines = (await server.log.entries(pid)).filter(({ severity }) => severity === "LOG");
  expect(lines.map(({ text }) => text)).toEqual([
    expect.stringContaining("still waiting for ExclusiveLock on advisory lock"),
    expect.stringContaining("acquired ExclusiveLock on advisory lock"),
  ]);
});
