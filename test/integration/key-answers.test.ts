import pg from "pg";
import postgres from "postgres";
import { describe, expect, test } from "vitest";
import { type LockInfo, listLocks, lockId, sha256LockId } from "../../src/index.ts";
import { connect, createPool, databaseUrl, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { startServer } from "../support/start-server.ts";
import { makeCommitsWait } from "../support/synchronous-standby.ts";
import { until } from "../support/until.ts";

// Lockers answer those who ask for the keys of locks on shared sessions.

async function keysSeen(
  options: { keysWithin: string },
  pool = createPool(),
): Promise<(string | undefined)[]> {
  return (await listLocks(pool, options)).map(({ key }) => key).toSorted();
}

/** Polls until a locker tells all of these keys: it begins to listen a second after its session was opened. */
async function untilTold(
  keys: readonly string[],
  options = { keysWithin: "1s" },
): Promise<readonly LockInfo[]> {
  const pool = createPool();
  return await until(
    async () => {
      const locks = await listLocks(pool, options);
      const told = locks.map(({ key }) => key);
      return keys.every((key) => told.includes(key)) && locks;
    },
    { deadline: 15_000 },
  );
}

test("listLocks shows many keys of a shared session, in notifications of 8000 bytes", async () => {
  await using locker = createLocker({ sessions: "shared", namespace: 7 });
  const keys = Array.from({ length: 600 }, (_, at) => uniqueKey(`ключ "${at}" \\ 🔒 ${"x".repeat(at % 40)}`));
  await Promise.all(keys.map((key) => locker.acquire(key)));
  const locks = await untilTold(keys);
  expect(locks.map(({ key }) => key).toSorted()).toEqual(keys.toSorted());
  expect(new Set(locks.map(({ namespace }) => namespace))).toEqual(new Set([7]));
  const unasked = await listLocks(createPool());
  expect(new Set(unasked.map(({ key }) => key))).toEqual(new Set([undefined]));
});

test("a key that the id doesn't prove is claimed: a permit's, or by another lockId", async () => {
  const pool = createPool();
  await using locker = createLocker({ pool, sessions: "shared", namespace: 7 });
  await using bySha = createLocker({ pool, sessions: "shared", namespace: 7, lockId: sha256LockId });
  await using own = createLocker({ pool, sessions: "shared", namespace: 7, lockId: () => 42n });
  await using alone = createLocker({ pool, sessions: "dedicated", namespace: 7, lockId: () => 43n });
  const [key, slots] = [uniqueKey(), uniqueKey("slots")];
  const permit = await locker.semaphore(slots, 3).acquire();
  for (const each of [bySha, own, alone]) await each.acquire(key);
  const locks = await until(
    async () => {
      const seen = await listLocks(pool, { keysWithin: "1s" });
      return seen.every((lock) => (lock.key ?? lock.claimedKey) !== undefined) && seen;
    },
    { deadline: 15_000 },
  );
  const about = new Map(locks.map((lock) => [lock.id, [lock.key, lock.claimedKey, lock.namespace]]));
  expect(about).toEqual(
    new Map([
      [permit.id, [undefined, slots, 7]],
      [sha256LockId(7, key), [key, undefined, 7]],
      [42n, [undefined, key, 7]],
      [43n, [undefined, key, 7]],
    ]),
  );
});

test("a locker over postgres.js tells its keys, too", async () => {
  const sql = postgres(databaseUrl());
  const locker = createLocker({ sql });
  const key = uniqueKey();
  await locker.acquire(key);
  await untilTold([key]);
  await locker.close();
  await sql.end();
});

test.each([-1, Number.NaN, "soon"])("keysWithin: %s is refused", async (keysWithin) => {
  await expect(listLocks(createPool(), { keysWithin: keysWithin as string })).rejects.toMatchObject({
    code: "INVALID_CONFIG",
    message: expect.stringContaining("`keysWithin`"),
  });
});

test("a locker listens with one statement, and its session goes back without", async () => {
  const pool = createPool({ max: 2 });
  const texts: string[] = [];
  pool.on("connect", (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => unknown;
    Object.assign(client, {
      query: (...args: unknown[]) => {
        texts.push((args[0] as { text?: string }).text ?? String(args[0]));
        return query(...args);
      },
    });
  });
  const locker = createLocker({ pool, sessions: "shared" });
  const key = uniqueKey();
  await locker.acquire(key);
  await untilTold([key]);
  const before = texts.length;
  for (let round = 0; round < 5; round += 1) await (await locker.acquire(uniqueKey())).release();
  expect(texts.length - before).toBe(10);
  await locker.close();
  const said = texts.filter((text) => /listen/.test(text));
  expect(said).toEqual(["listen pg_locker_keys", "unlisten pg_locker_keys"]);
  const { rows } = await pool.query("select pg_listening_channels()");
  expect(rows).toEqual([]);
});

test("a locker with tellKeys: false doesn't listen", async () => {
  const pool = createPool({ max: 1 });
  await using quiet = createLocker({ sessions: "shared", tellKeys: false });
  await using telling = createLocker({ pool, sessions: "shared" });
  const [untold, told] = [uniqueKey(), uniqueKey()];
  await quiet.acquire(untold);
  await telling.acquire(told);
  await untilTold([told]);
  expect(await keysSeen({ keysWithin: "300ms" })).toEqual([told, undefined]);
});

test("when the session that listens is ended, another of the locker's listens", async () => {
  await using locker = createLocker({ sessions: "shared", maxLocksPerSession: 1 });
  const [first, second] = [uniqueKey("first"), uniqueKey("second")];
  const lost = await locker.acquire(first);
  await locker.acquire(second);
  const locks = await untilTold([first, second]);
  const pid = locks.find(({ key }) => key === first)?.pid;
  await (await connect()).query("select pg_terminate_backend($1)", [pid]);
  await until(() => lost.signal.aborted);
  await untilTold([second]);
});

describe("a stranger", () => {
  test("can't make a locker write into another channel", async () => {
    await using locker = createLocker({ sessions: "shared" });
    const key = uniqueKey();
    await locker.acquire(key);
    await untilTold([key]);
    const stranger = await connect();
    const got: string[] = [];
    stranger.on("notification", ({ channel }) => got.push(channel));
    await stranger.query("listen app; listen pg_locker_reply_x; listen pg_locker_keys");
    await stranger.query("notify pg_locker_keys, 'app'; notify pg_locker_keys, 'pg_locker_reply_x'");
    await untilTold([key]);
    expect(got.filter((channel) => channel !== "pg_locker_keys")).toEqual([]);
  });

  test("can't give a lock another key", async () => {
    const holder = await connect({ application_name: "pg-locker 0 (shared)" });
    await holder.query("select pg_advisory_lock($1)", [lockId(0, "true")]);
    let answered: Promise<unknown> | undefined;
    holder.on("notification", ({ payload }) => {
      const about = `"pid":${holder.processID},"namespace":0`;
      const answers = [
        '"more":2,"locks":["false", 7]',
        '"more":1,"locks":["false"]',
        `"more":1,"locks":[["false","${lockId(0, "true")}"]]`,
        '"more":0,"locks":["true"]',
      ];
      const sql = "select count(pg_notify($1, part)) from unnest($2::text[]) as part";
      answered = holder.query(sql, [payload, answers.map((rest) => `{${about},${rest}}`)]);
    });
    await holder.query("listen pg_locker_keys");
    const [lock] = await listLocks(createPool(), { keysWithin: "5s" });
    await answered;
    expect(lock).toMatchObject({ key: "true", claimedKey: undefined });
  });
});

test("a session that can't LISTEN carries locks, too", async () => {
  const pool = createPool();
  let refused = 0;
  pool.on("connect", (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => unknown;
    const without = (...args: unknown[]): unknown => {
      const text = (args[0] as { text?: string }).text ?? "";
      if (!text.startsWith("listen")) return query(...args);
      refused += 1;
      return query({ ...(args[0] as object), text: "listen to nothing" });
    };
    Object.assign(client, { query: without });
  });
  await using locker = createLocker({ pool, sessions: "shared" });
  const lock = await locker.acquire(uniqueKey());
  await until(() => refused > 0);
  await lock.refresh();
  expect(await keysSeen({ keysWithin: "100ms" })).toEqual([undefined]);
  await lock.release();
});

test("while the server holds notifications up, locks are held and listed all the same", async () => {
  await using server = await startServer();
  const admin = new pg.Client({ connectionString: server.url });
  const slow = new pg.Client({ connectionString: server.url });
  const pool = new pg.Pool({ connectionString: server.url });
  for (const each of [admin, slow]) each.on("error", () => {});
  pool.on("error", () => {});
  await Promise.all([admin.connect(), slow.connect()]);
  await makeCommitsWait(server.url);
  const hanging = slow
    .query(`select pg_logical_emit_message(true, 'x', ''), pg_notify('x', '')`)
    .catch(() => {});
  const waits = "select from pg_stat_activity where wait_event = 'SyncRep'";
  await until(async () => (await admin.query(waits)).rows.length === 1);
  const locker = createLocker({ pool, sessions: "shared" });
  const lock = await locker.acquire("k");
  const listens = "select from pg_stat_activity where query like 'listen pg_locker_keys%'";
  await until(async () => (await admin.query(listens)).rows.length === 1);
  expect(await listLocks(pool, { keysWithin: "300ms" })).toMatchObject([
    { id: lockId(0, "k"), key: undefined },
  ]);
  await lock.refresh();
  await lock.release();
  await locker.close();
  await admin.query(`select pg_terminate_backend(pid) from (${waits.replace("from", "pid from")}) as w`);
  await hanging;
  await Promise.all([admin.end(), slow.end().catch(() => {}), pool.end()]);
});
