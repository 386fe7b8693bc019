import { afterEach, beforeAll, beforeEach, describe, expect, inject, test, vi } from "vitest";
import {
  cancelRequest,
  WaitingServer,
  waitInBlock,
  waitOnce,
  waitUntilGranted,
} from "../support/bounded-wait.ts";
import { Child } from "../support/child.ts";
import { type Session, uniqueId, uniqueKey } from "../support/database.ts";
import { until } from "../support/until.ts";

// The facts about PostgreSQL's queue for a lock that waiting in the server relies on, each proven on the real server with plain clients:
// the order, deadlocks, what a wait costs others, and what ends it. More are in postgres-behavior-waiting.test.ts.

// Generous, because the machine may be busy.
vi.setConfig({ testTimeout: 60_000 });

let server: WaitingServer;

beforeAll(async () => {
  server = await WaitingServer.start({ max_connections: 60 });
  return () => server[Symbol.asyncDispose]();
});
beforeEach(() => server.log.mark());
afterEach(() => onTheWay.splice(0));

const lock = (session: Session, id: bigint, shared = "") =>
  session.query(`select pg_advisory_lock${shared}($1)`, [id.toString()]);
const unlock = (session: Session, id: bigint, shared = "") =>
  session.query(`select pg_advisory_unlock${shared}($1)`, [id.toString()]);

/** The names of those who were granted a lock, in the server's order. */
const onTheWay: string[] = [];

/** Joins the queue, and notes when it was granted. Resolves with the promise of the grant once it is in the queue. */
async function queue(
  name: string,
  session: Session,
  id: bigint,
  wait: () => Promise<unknown>,
): Promise<{ granted: Promise<void> }> {
  const granted = wait().then(() => void onTheWay.push(name));
  granted.catch(() => {}); // Until it is awaited.
  await server.waiting(id, session);
  return { granted };
}

describe("the queue for a lock", () => {
  test("is in order of arrival, for bounded and plain waits, writers and readers alike", async () => {
    const id = uniqueId();
    const holder = await server.connect();
    await lock(holder, id);
    const names = ["bounded 1", "plain 2", "reader 3", "bounded 4", "plain reader 5", "bounded 6"];
    const waits = [];
    for (const name of names) {
      const session = await server.connect({ bound: name.startsWith("plain") ? 0 : 60_000 });
      const mode = name.includes("reader") ? "shared" : "exclusive";
      const shared = mode === "shared" ? "_shared" : "";
      const wait = name.startsWith("plain")
        ? () => lock(session, id, shared)
        : () => waitUntilGranted(session, id, mode);
      const { granted } = await queue(name, session, id, wait);
      waits.push(granted.then(() => session.query("select pg_advisory_unlock_all()")));
    }
    await unlock(holder, id);
    await Promise.all(waits);
    expect(onTheWay).toEqual(names);
  });

  test("grants all readers ahead of a writer together, and none that came after it", async () => {
    const id = uniqueId();
    const [holder, ...others] = await Promise.all(Array.from({ length: 5 }, () => server.connect()));
    const [one, two, writer, late] = others as [Session, Session, Session, Session];
    await lock(holder as Session, id);
    const reads = [];
    for (const reader of [one, two])
      reads.push((await queue("reader", reader, id, () => lock(reader, id, "_shared"))).granted);
    const write = (await queue("writer", writer, id, () => lock(writer, id))).granted;
    const lateRead = (await queue("late reader", late, id, () => lock(late, id, "_shared"))).granted;
    await unlock(holder as Session, id);
    await Promise.all(reads);
    expect((await server.pidsOf(id, "granted")).sort()).toEqual([one.processID, two.processID].sort());
    expect(await server.pidsOf(id, "waiting")).toEqual([writer.processID, late.processID]);
    for (const reader of [one, two]) await unlock(reader, id, "_shared");
    await write;
    await unlock(writer, id);
    await lateRead;
    expect(onTheWay).toEqual(["reader", "reader", "writer", "late reader"]);
  });

  test("isn't passed by a try: a shared one behind a waiting writer is refused", async () => {
    const id = uniqueId();
    const [reader, writer, other] = [await server.connect(), await server.connect(), await server.connect()];
    await lock(reader, id, "_shared");
    const tryShared = async () =>
      (await other.query("select pg_try_advisory_lock_shared($1) as got", [id.toString()])).rows[0];
    expect(await tryShared()).toEqual({ got: true });
    await unlock(other, id, "_shared");
    const { granted } = await queue("writer", writer, id, () => lock(writer, id));
    expect(await tryShared()).toEqual({ got: false });
    await unlock(reader, id, "_shared");
    await granted;
  });

  test("isn't passed by a try of the holder that has just released, either", async () => {
    const id = uniqueId();
    const [holder, waiter] = [await server.connect(), await server.connect()];
    await lock(holder, id);
    const { granted } = await queue("waiter", waiter, id, () => lock(waiter, id));
    const sql = `select pg_advisory_unlock(${id}); select pg_try_advisory_lock(${id}) as got`;
    expect((await holder.query(sql)) as unknown).toMatchObject({ 1: { rows: [{ got: false }] } });
    await granted;
  });

  test("takes in at its end a waiter whose bound passes and that asks again", async () => {
    const id = uniqueId();
    const [holder, first, second] = [
      await server.connect(),
      await server.connect({ bound: 300 }),
      await server.connect(),
    ];
    await lock(holder, id);
    const one = (await queue("first", first, id, () => waitUntilGranted(first, id))).granted;
    const two = (await queue("second", second, id, () => lock(second, id))).granted;
    await until(async () => (await server.pidsOf(id, "waiting"))[0] === second.processID);
    await server.waiting(id, first);
    await unlock(holder, id);
    await two;
    await unlock(second, id);
    await one;
    expect(onTheWay).toEqual(["second", "first"]);
  });
});

// https://www.postgresql.org/docs/current/runtime-config-locks.html#GUC-DEADLOCK-TIMEOUT
describe("a deadlock of a bounded wait and a plain one", () => {
  test.each([
    ["the bounded one", true],
    ["the plain one", false],
  ])("is 40P01, of %s if it looks later, and the block doesn't swallow it", async (_, bounded) => {
    const [a, b] = [uniqueId(), uniqueId()];
    const one = await server.connect({ bound: 60_000 });
    const other = await server.connect();
    // A session that has looked once, and found nothing, doesn't look again: the other one looks later, and finds it.
    const [later, earlier] = bounded ? [one, other] : [other, one];
    await later.query("set deadlock_timeout = '100ms'");
    await earlier.query("set deadlock_timeout = '1h'");
    await lock(one, a);
    await lock(other, b);
    const waits = {
      one: () => one.query(waitInBlock(b)),
      other: () => lock(other, a),
    };
    const first = bounded ? waits.other() : waits.one();
    await server.waiting(bounded ? a : b, earlier);
    const victim = bounded ? waits.one() : waits.other();
    await expect(victim).rejects.toMatchObject({ code: "40P01" });
    // The victim still has its lock; the other session waits on.
    expect(await server.pidsOf(bounded ? a : b, "granted")).toEqual([later.processID]);
    await later.query("select pg_advisory_unlock_all()");
    await first;
    expect((await server.log.complaints(later.processID)).map(({ text }) => text)).toEqual([
      "deadlock detected",
    ]);
  });

  test("isn't detected if the bound passes before the server looks for deadlocks", async () => {
    const [a, b] = [uniqueId(), uniqueId()];
    const [one, other] = [await server.connect({ bound: 100 }), await server.connect()];
    for (const session of [one, other]) await session.query("set deadlock_timeout = '1h'");
    await lock(one, a);
    await lock(other, b);
    const { granted } = await queue("other", other, a, () => lock(other, a));
    expect(await waitOnce(one, b)).toBe(false);
    await one.query("select pg_advisory_unlock_all()");
    await granted;
  });
});

describe("log_lock_waits", () => {
  const prepare = async (id: bigint, bound: number) => {
    const holder = await server.connect();
    const waiter = await server.connect({ bound });
    await waiter.query("set log_lock_waits = on; set deadlock_timeout = '50ms'");
    await lock(holder, id);
    return { holder, waiter };
  };
  const place = "on advisory lock \\[\\d+,\\d+,\\d+,1\\] after \\d+\\.\\d+ ms$";

  test("writes one line for a wait longer than deadlock_timeout, and one for its grant", async () => {
    const id = uniqueId();
    const { holder, waiter } = await prepare(id, 60_000);
    const waiting = waitOnce(waiter, id);
    await until(async () => (await server.log.entries(waiter.processID)).length > 0);
    await unlock(holder, id);
    expect(await waiting).toBe(true);
    const lines = (await server.log.entries(waiter.processID)).filter(({ severity }) => severity === "LOG");
    expect(lines.map(({ text }) => text)).toEqual([
      expect.stringMatching(`^process ${waiter.processID} still waiting for ExclusiveLock ${place}`),
      expect.stringMatching(`^process ${waiter.processID} acquired ExclusiveLock ${place}`),
    ]);
  });

  test("writes one line for a wait whose bound passes, and none for one that is shorter", async () => {
    const id = uniqueId();
    const { waiter } = await prepare(id, 300);
    expect(await waitOnce(waiter, id)).toBe(false);
    const lines = (await server.log.entries(waiter.processID)).filter(({ severity }) => severity === "LOG");
    expect(lines.map(({ text }) => text)).toEqual([expect.stringMatching("still waiting for ExclusiveLock")]);
    await server.log.mark();
    await waiter.query("set lock_timeout = 10");
    expect(await waitOnce(waiter, id)).toBe(false);
    expect(await server.log.entries(waiter.processID)).toEqual([]);
  });
});

// https://www.postgresql.org/docs/current/sql-createindex.html#SQL-CREATEINDEX-CONCURRENTLY
describe("under ten bounded waits, again and again,", () => {
  const bound = 500;
  const crowd = async (id: bigint) => {
    const holder = await server.connect();
    await lock(holder, id);
    const waiters = await Promise.all(Array.from({ length: 10 }, () => server.connect({ bound })));
    const all = waiters.map(async (waiter) => {
      await waitUntilGranted(waiter, id);
      await unlock(waiter, id);
      await unlock(waiter, id);
    });
    await server.waiting(id, ...waiters);
    return { waiters, end: async () => void (await Promise.all([unlock(holder, id), ...all])) };
  };

  test("CREATE INDEX CONCURRENTLY finishes, which under one plain wait doesn't", async () => {
    const [id, indexer] = [uniqueId(), await server.connect()];
    await indexer.query("create table indexed as select generate_series(1, 1000) as i");
    const { end } = await crowd(id);
    const start = performance.now();
    await indexer.query("create index concurrently on indexed (i)");
    // Twice the bound, because the machine may be busy.
    expect(performance.now() - start).toBeLessThan(10 * bound);
    await end();

    const [holder, waiter] = [await server.connect(), await server.connect()];
    await lock(holder, id);
    const { granted } = await queue("plain", waiter, id, () => lock(waiter, id));
    let indexed = false;
    const second = indexer.query("create index concurrently on indexed (i)").then(() => {
      indexed = true;
    });
    const sql = "select from pg_locks where pid = $1 and locktype = 'virtualxid' and not granted";
    await until(async () => (await server.rows(sql, [indexer.processID])).length > 0);
    expect(indexed).toBe(false);
    await unlock(holder, id);
    await granted;
    await second;
    await indexer.query("drop table indexed");
  });

  test("no snapshot is older than the bound", async () => {
    const id = uniqueId();
    const { waiters, end } = await crowd(id);
    const pids = waiters.map(({ processID }) => processID);
    const ages: number[] = [];
    const start = performance.now();
    while (performance.now() - start < 3 * bound) {
      const rows = await server.rows<{ age: number }>(
        `select extract(epoch from clock_timestamp() - query_start)::float8 * 1000 as age from pg_stat_activity
          where pid = any($1) and backend_xmin is not null`,
        [pids],
      );
      ages.push(...rows.map(({ age }) => age));
    }
    await end();
    expect(Math.max(...ages)).toBeGreaterThan(bound / 2);
    expect(Math.max(...ages)).toBeLessThan(4 * bound);
  });
});

describe("the backend of a client that was killed while it waited in the server", () => {
  const orphan = async (settings: string) => {
    const id = uniqueId();
    const holder = await server.connect();
    await lock(holder, id);
    await using child = Child.start("queue-in-server.mjs", {
      args: [id.toString(), "0"],
      env: { DATABASE_URL: server.url, PGOPTIONS: settings },
    });
    const { pid } = await child.message((message) => message["pid"] !== undefined);
    await until(async () => (await server.pidsOf(id, "waiting")).includes(Number(pid)));
    child.signal("SIGKILL");
    await child.exited;
    return { id, holder, pid: Number(pid) };
  };

  test("stays in the queue, and frees the lock on its grant, as nobody is there", async () => {
    const { id, holder, pid } = await orphan("");
    expect(await server.pidsOf(id, "waiting")).toEqual([pid]);
    const next = await server.connect({ bound: 60_000 });
    const { granted } = await queue("next", next, id, () => waitUntilGranted(next, id));
    await unlock(holder, id);
    await granted;
    expect(onTheWay).toEqual(["next"]);
    await until(
      async () => (await server.rows("select from pg_stat_activity where pid = $1", [pid])).length === 0,
    );
  });

  test("leaves the queue by client_connection_check_interval, block or no block", async () => {
    const { id } = await orphan("-c client_connection_check_interval=100");
    await until(async () => (await server.pidsOf(id, "waiting")).length === 0);
    const session = await server.connect({ bound: 60_000 });
    await session.query("set client_connection_check_interval = 100");
    // Not events.once, which rejects with the error that comes first.
    const ended = new Promise<void>((resolve) => session.once("end", resolve));
    const waiting = waitOnce(session, id).catch((error: Error) => error.message);
    await server.waiting(id, session);
    (session as unknown as { connection: { stream: { destroy(): void } } }).connection.stream.destroy();
    await ended;
    expect(await waiting).toMatch(/terminated/);
    await until(async () => (await server.pidsOf(id, "waiting")).length === 0);
  });
});

describe("a setting of a role", () => {
  const role = uniqueKey("role").replace(":", "_");
  let id: bigint;
  beforeEach(async () => {
    id = uniqueId();
    await server.rows(`create role ${role} login`);
    await lock(await server.connect(), id);
    return async () => {
      await server.rows("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", [role]);
      await server.rows(`drop role ${role}`);
    };
  });
  const as = async (setting: string): Promise<Session> => {
    await server.rows(`alter role ${role} set ${setting}`);
    const url = new URL(server.url);
    url.username = role;
    return await server.connect({ connectionString: url.href });
  };
  const inForce = ["lock_timeout", "statement_timeout", "transaction_timeout"] as const;
  const known = inForce.filter((name) => name !== "transaction_timeout" || inject("postgresMajor") >= 17);

  test.each(["lock_timeout", "statement_timeout"])(
    "%s ends the wait silently, as if its bound had passed",
    async (name) => {
      const session = await as(`${name} = '100ms'`);
      await session.query(waitInBlock(id));
      expect(await server.pidsOf(id, "waiting")).toEqual([]);
      expect(await server.log.entries(session.processID)).toEqual([]);
    },
  );

  test.runIf(known.includes("transaction_timeout"))(
    "transaction_timeout ends the session, which no block catches",
    async () => {
      const session = await as("transaction_timeout = '100ms'");
      await expect(session.query(waitInBlock(id))).rejects.toMatchObject({ code: "25P04" });
      await until(async () => !(await server.lives(session)));
    },
  );

  test.each(known.flatMap((name) => [[name, "before the wait"] as const, [name, "in its message"] as const]))(
    "%s is overruled by the session's own, set %s",
    async (name, when) => {
      const session = await as(`${name} = '100ms'`);
      const set = `select set_config('${name}', '0', false)`;
      if (when === "before the wait") await session.query(set);
      const text = when === "before the wait" ? waitInBlock(id) : `${set}; ${waitInBlock(id)}`;
      const waiting = session.query(text);
      await server.waiting(id, session);
      // By the server's clock, after twice the time that was set.
      await server.rows("select pg_sleep(0.3)");
      expect(await server.pidsOf(id, "waiting")).toEqual([session.processID]);
      await cancelRequest(session);
      await waiting;
    },
  );
});
