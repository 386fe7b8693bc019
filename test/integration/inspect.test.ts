import pg from "pg";
import { describe, expect, test } from "vitest";
import { EmptyKeyError, InvalidConfigError, type Locker, LockerClosedError } from "../../src/index.ts";
import { connect, createPool, databaseUrl, holdersOf, uniqueKey, urlWith } from "../support/database.ts";
import { eachLocker } from "../support/each-locker.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

describe.each(eachLocker)("%s: inspect", (_, create) => {
  test("says that nobody holds a key", async () => {
    await using locker = create({ namespace: 7 });
    const key = uniqueKey();
    expect(await locker.inspect(key)).toMatchObject({
      key,
      held: false,
      heldHere: false,
      holders: [],
      waiters: [],
      waitingHere: 0,
    });
    expect(await locker.isHeld(key)).toBe(false);
  });

  test("shows since when a lock of its own is held, and its token", async () => {
    await using locker = create();
    const key = uniqueKey();
    const before = Date.now();
    const lock = await locker.acquire(key, { fencing: true });
    const seen = await locker.inspect(key);
    expect(seen).toMatchObject({ id: lock.id, held: true, heldHere: true });
    const [holder, ...others] = seen.holders;
    expect(others).toEqual([]);
    expect(holder).toMatchObject({ own: true, mode: "exclusive", fencingToken: lock.fencingToken });
    expect(holder?.fencingToken).toBeTypeOf("bigint");
    expect(holder?.since?.getTime()).toBeGreaterThanOrEqual(before);
    expect(holder?.since?.getTime()).toBeLessThanOrEqual(Date.now());
    expect(await locker.isHeld(key)).toBe(true);
    await lock.release();
    expect(await locker.isHeld(key)).toBe(false);
  });

  test("counts who waits here", async () => {
    await using locker = create();
    const key = uniqueKey();
    const lock = await locker.acquire(key);
    const waits = [1, 2, 3].map(() => locker.withLock(key, () => {}, { wait: true }));
    await until(async () => (await locker.inspect(key)).waitingHere === 3);
    await lock.release();
    await Promise.all(waits);
    expect((await locker.inspect(key)).waitingHere).toBe(0);
  });

  test("knows a key of bytes, and one of a namespace", async () => {
    await using locker = create();
    const billing: Pick<Locker, "acquire" | "inspect"> = locker.namespace("billing");
    const key = uniqueKey();
    await using _lock = await billing.acquire(key);
    expect(await billing.inspect(key)).toMatchObject({ key: `billing:${key}`, held: true });
    await using _bytes = await locker.acquire(Buffer.of(0xff, 0x61));
    expect(await locker.isHeld(Buffer.of(0xff, 0x61))).toBe(true);
    expect(await locker.isHeld(Buffer.of(0xfe, 0x61))).toBe(false);
  });

  test.each([
    ["an empty key", "", undefined, EmptyKeyError],
    ["an unknown option", "k", { wait: 5 }, InvalidConfigError],
    ["no options", "k", null, InvalidConfigError],
  ])("refuses %s", async (_what, key, options, error) => {
    await using locker = create();
    await expect(locker.inspect(key, options as never)).rejects.toThrow(error);
    await expect(locker.isHeld(key, options as never)).rejects.toThrow(error);
  });

  test("ends with its signal, and with its locker", async () => {
    const locker = create();
    const reason = new Error("enough");
    await expect(locker.inspect("k", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    await locker.close();
    await expect(locker.inspect("k")).rejects.toThrow(LockerClosedError);
    await expect(locker.isHeld("k")).rejects.toThrow(LockerClosedError);
  });
});

test("a holder elsewhere is shown with its session, and not as one's own", async () => {
  await using theirs = createLocker({ namespace: 7, sessions: "dedicated" });
  await using ours = createLocker({ namespace: 7 });
  const key = uniqueKey();
  await using lock = await theirs.acquire(key, { fencing: true });
  const seen = await ours.inspect(key);
  expect(seen).toMatchObject({ held: true, heldHere: false });
  expect(seen.holders).toEqual([
    {
      mode: "exclusive",
      own: false,
      since: undefined,
      keptUntil: undefined,
      fencingToken: undefined,
      pid: (await holdersOf(lock.id))[0],
      host: expect.stringMatching(/^(127\.0\.0\.1|::1|local)$/),
      applicationName: `pg-locker 7 ${key}`.slice(0, 63),
      user: expect.any(String),
      sessionSince: expect.any(Date),
      preparedTransaction: undefined,
    },
  ]);
});

test("of the readers of two lockers, one's own is shown as such", async () => {
  await using theirs = createLocker();
  await using ours = createLocker();
  const key = uniqueKey();
  await using _theirs = await theirs.acquire(key, { mode: "shared" });
  await using _ours = await ours.acquire(key, { mode: "shared" });
  const { holders } = await ours.inspect(key);
  expect(holders.map(({ mode }) => mode)).toEqual(["shared", "shared"]);
  expect(holders.filter(({ own }) => own)).toHaveLength(1);
});

test("a lock that was waited for, or is a transaction's, is shown as one's own", async () => {
  await using locker = createLocker();
  const key = uniqueKey();
  const first = await locker.acquire(key);
  const waited = locker.acquire(key, { wait: true });
  await until(async () => (await locker.inspect(key)).waiters.length === 1);
  const { waiters } = await locker.inspect(key);
  expect(waiters[0]).toMatchObject({ mode: "exclusive", since: expect.any(Date), pid: expect.any(Number) });
  await first.release();
  await using _lock = await waited;
  expect((await locker.inspect(key)).holders).toMatchObject([{ own: true, pid: waiters[0]?.pid }]);
  const other = uniqueKey();
  await locker.withTransaction(other, async () => {
    expect((await locker.inspect(other)).holders).toMatchObject([{ own: true, since: undefined }]);
  });
});

test("a lock that has expired is held for as long as the server keeps it", async () => {
  await using locker = createLocker();
  const lock = await locker.acquire(uniqueKey(), { ttl: "400ms" });
  await until(() => lock.expired);
  expect(await locker.inspect(lock.key)).toMatchObject({ held: true, heldHere: true });
  await lock.release().catch(() => {});
  expect(await locker.isHeld(lock.key)).toBe(false);
});

test("a lock taken by hand is a holder like any other", async () => {
  await using locker = createLocker();
  const { id, key } = await locker.inspect(uniqueKey());
  const session = await connect({ application_name: "psql" });
  await session.query("select pg_advisory_lock($1)", [id.toString()]);
  const { holders } = await locker.inspect(key);
  expect(holders).toMatchObject([{ own: false, applicationName: "psql", pid: session.processID }]);
});

test("a full pool doesn't prevent a look", async () => {
  const pool = createPool({ max: 1 });
  const client = await pool.connect();
  await using locker = createLocker({ pool });
  expect(await locker.isHeld(uniqueKey())).toBe(false);
  client.release();
});

test("an abort ends the look at a server that is silent", async () => {
  await using locker = createLocker({
    pool: new pg.Pool({ host: "192.0.2.1", user: "nobody", database: "none" }),
  });
  const reason = new Error("enough");
  const aborted = new AbortController();
  const looking = locker.inspect("k", { signal: aborted.signal });
  aborted.abort(reason);
  await expect(looking).rejects.toBe(reason);
});

test("a database that isn't there is an error, not a lock that isn't held", async () => {
  await using locker = createLocker({ connectionString: urlWith({ database: "none_such" }) });
  await expect(locker.isHeld("k")).rejects.toMatchObject({ code: "DATABASE_ERROR", sqlState: "3D000" });
});

test("a locker with a connection string looks before it has done anything else", async () => {
  await using locker = createLocker({ connectionString: databaseUrl() });
  expect(await locker.isHeld(uniqueKey())).toBe(false);
});

describe.each(eachLocker)("%s: how long a lock may be relied on", (_, create) => {
  test("is shown as a date and in milliseconds, and moves with a refresh", async () => {
    await using locker = create();
    const before = Date.now();
    const lock = await locker.acquire(uniqueKey(), { ttl: "10s" });
    const { expiresAt } = lock;
    expect(expiresAt.getTime()).toBeGreaterThanOrEqual(before + 9_900);
    expect(expiresAt.getTime()).toBeLessThanOrEqual(Date.now() + 10_000);
    expect(lock.expiresAt).toEqual(expiresAt);
    expect(lock.remaining).toBeGreaterThan(0);
    expect(lock.remaining).toBeLessThanOrEqual(10_000);
    await lock.refresh("1h");
    expect(lock.expiresAt.getTime()).toBeGreaterThan(before + 3_500_000);
    expect(lock.remaining).toBeGreaterThan(3_500_000);
    await lock.release();
    expect(lock.remaining).toBe(0);
    expect(lock.expiresAt).toBeInstanceOf(Date);
  });

  test("is 0 once it has expired", async () => {
    await using locker = create();
    await using lock = await locker.acquire(uniqueKey(), { ttl: "400ms" });
    const { expiresAt } = lock;
    await until(() => lock.expired);
    expect(lock.remaining).toBe(0);
    expect(lock.expiresAt).toEqual(expiresAt);
    expect(expiresAt.getTime()).toBeLessThanOrEqual(Date.now());
  });

  test("of several is that of the first to expire", async () => {
    await using locker = create();
    await using group = await locker.acquireAll([uniqueKey(), uniqueKey()], { ttl: "10s" });
    const [first] = group.locks;
    await first?.refresh("5s");
    expect(group.expiresAt).toEqual(first?.expiresAt);
    expect(group.remaining).toBeLessThanOrEqual(5_000);
  });
});
