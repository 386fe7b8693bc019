import { describe, expect, test } from "vitest";
import { DatabaseError, endHolders, listLocks, lockId } from "../../src/index.ts";
import {
  advisoryLocks,
  connect,
  createPool,
  createRole,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueId,
  uniqueKey,
} from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

describe("listLocks shows of a lock", () => {
  test("everything, including its key, if it is on a dedicated session", async () => {
    await using locker = createLocker({ sessions: "dedicated", namespace: -7 });
    const key = uniqueKey();
    await using lock = await locker.acquire(key);
    const [pid] = await holdersOf(lock.id);
    const before = Date.now();
    const [seen, ...others] = await listLocks(createPool());
    expect(others).toEqual([]);
    expect(seen).toEqual({
      id: lock.id,
      key,
      keyStart: undefined,
      namespace: -7,
      mode: "exclusive",
      state: "held",
      waitingSince: undefined,
      pid,
      applicationName: `pg-locker -7 ${key}`,
      user: new URL(databaseUrl()).username,
      host: expect.stringMatching(/^(local|[\d.]+|[\da-f:]+)$/) as string,
      sessionState: "idle",
      sessionSince: expect.any(Date) as Date,
      activeAt: expect.any(Date) as Date,
      isHidden: false,
    });
    // The server's clock, which in a test is (nearly) this machine's.
    expect(Math.abs(before - Number(seen?.sessionSince))).toBeLessThan(60_000);
    expect(Math.abs(before - Number(seen?.activeAt))).toBeLessThan(60_000);
  });

  test("the namespace, but no key, if it is on a shared session", async () => {
    await using locker = createLocker({ sessions: "shared", namespace: 7 });
    await using one = await locker.acquire(uniqueKey());
    await using other = await locker.acquire(uniqueKey(), { mode: "shared" });
    const seen = await listLocks(createPool());
    expect(seen).toHaveLength(2);
    for (const lock of seen) {
      expect(lock).toMatchObject({ key: undefined, namespace: 7, applicationName: "pg-locker 7 (shared)" });
    }
    expect(seen.find(({ id }) => id === one.id)).toMatchObject({ mode: "exclusive", state: "held" });
    expect(seen.find(({ id }) => id === other.id)).toMatchObject({ mode: "shared", state: "held" });
  });

  test("what is known, if another application has it, but none on two integers", async () => {
    const client = await connect({ application_name: "by hand" });
    const id = uniqueId();
    await client.query("select pg_advisory_lock($1), pg_advisory_lock(1, 2)", [id]);
    expect(await listLocks(createPool())).toMatchObject([
      {
        id,
        key: undefined,
        keyStart: undefined,
        namespace: undefined,
        pid: client.processID,
        applicationName: "by hand",
      },
    ]);
  });

  test.each([0n, -1n, 1n, 2n ** 63n - 1n, -(2n ** 63n)])("its id, whatever that is: %s", async (id) => {
    const client = await connect();
    await client.query("select pg_advisory_lock($1)", [id]);
    expect((await listLocks(createPool())).map((lock) => lock.id)).toEqual([id]);
    expect(await listLocks(createPool(), { id })).toHaveLength(1);
  });

  test("its holders, and then the waiters in the server, with their waiting times", async () => {
    const [one, other, waiter] = [await connect(), await connect(), await connect()];
    const id = uniqueId();
    await one.query("select pg_advisory_lock_shared($1)", [id]);
    await other.query("select pg_advisory_lock_shared($1)", [id]);
    const waits = waiter.query("select pg_advisory_lock($1)", [id]).catch(() => {});
    const seen = await until(async () => {
      const locks = await listLocks(createPool());
      return locks[2]?.waitingSince && locks;
    });
    expect(seen).toMatchObject([
      { id, mode: "shared", state: "held" },
      { id, mode: "shared", state: "held" },
      { id, mode: "exclusive", state: "waiting", pid: waiter.processID, sessionState: "active" },
    ]);
    expect(new Set(seen.map(({ pid }) => pid))).toEqual(
      new Set([one, other, waiter].map(({ processID }) => processID)),
    );
    await onServer("select pg_terminate_backend($1)", [waiter.processID]);
    await waits;
  });

  test.each(["dedicated", "shared"] as const)(
    "who waits for it in a process of this library, and since when: %s",
    async (sessions) => {
      await using holder = createLocker({ sessions: "dedicated", namespace: 7 });
      await using waiter = createLocker({ sessions, namespace: 7 });
      const key = uniqueKey();
      const lock = await holder.acquire(key);
      const waits = waiter.acquire(key, { wait: true });
      const seen = await until(async () => {
        const locks = await listLocks(createPool(), { id: lock.id });
        return locks.length === 2 && locks;
      });
      expect(seen).toMatchObject([
        { id: lock.id, key, namespace: 7, state: "held" },
        { id: lock.id, key, namespace: 7, state: "waiting", waitingSince: expect.any(Date) },
      ]);
      expect(await listLocks(createPool(), { id: lock.id })).toMatchObject(seen.map(({ pid }) => ({ pid })));
      await lock.release();
      await using _had = await waits;
    },
  );
});

describe("a key", () => {
  test.each([
    ["of characters that would move a cursor", "a\u001b[2J\r\n\t\u0007\u009b1mz"],
    ["of other scripts", "价格/ü/😀"],
    ["that looks like the name of a session with many locks", "(shared)!"],
    ["with spaces and percent signs", " 100% %41 "],
  ])("%s is shown as it is", async (_, key) => {
    await using locker = createLocker({ sessions: "dedicated" });
    await using lock = await locker.acquire(key);
    expect(await listLocks(createPool())).toMatchObject([{ id: lock.id, key, keyStart: undefined }]);
  });

  test.each(["x", "%", "ü", "😀"])("that is too long is shown by its beginning: %s", async (character) => {
    await using locker = createLocker({ sessions: "dedicated" });
    const key = character.repeat(1_000);
    await using lock = await locker.acquire(key);
    const [seen] = await listLocks(createPool());
    expect(seen).toMatchObject({ id: lock.id, key: undefined, namespace: 0 });
    expect(seen?.keyStart).toMatch(/./u);
    expect(key.startsWith(seen?.keyStart ?? "?")).toBe(true);
  });

  test("that another application's name pretends to have is not shown", async () => {
    const client = await connect({ application_name: "pg-locker 0 nightly" });
    await client.query("select pg_advisory_lock(42)");
    expect(await listLocks(createPool())).toMatchObject([{ id: 42n, key: undefined, keyStart: undefined }]);
  });
});

describe("a role without privileges", () => {
  test("sees the key but not the rest; a member of pg_read_all_stats sees all", async () => {
    await using role = await createRole();
    await using locker = createLocker({ sessions: "dedicated", namespace: 7 });
    const key = uniqueKey();
    await using lock = await locker.acquire(key);
    const [pid] = await holdersOf(lock.id);
    const hidden = await listLocks(createPool({ connectionString: role.url }));
    expect(hidden).toMatchObject([
      {
        id: lock.id,
        key,
        namespace: 7,
        pid,
        user: new URL(databaseUrl()).username,
        host: undefined,
        sessionState: undefined,
        sessionSince: undefined,
        activeAt: undefined,
        isHidden: true,
      },
    ]);
    await onServer(`grant pg_read_all_stats to ${role.name}`);
    const shown = await listLocks(createPool({ connectionString: role.url }));
    expect(shown).toEqual(await listLocks(createPool()));
    expect(shown).toMatchObject([{ isHidden: false, sessionState: "idle" }]);
  });

  test("sees all of its own", async () => {
    await using role = await createRole();
    const client = await connect({ connectionString: role.url });
    await client.query("select pg_advisory_lock($1)", [uniqueId()]);
    const [seen] = await listLocks(createPool({ connectionString: role.url }));
    expect(seen).toMatchObject({ user: role.name, isHidden: false, sessionState: "idle" });
    await client.end();
  });
});

describe("a look", () => {
  test("asks beside a pool that is checked out, and leaves nothing", async () => {
    const pool = createPool({ max: 1 });
    const client = await pool.connect();
    const [{ pid }] = (await client.query("select pg_backend_pid() as pid")).rows as [{ pid: number }];
    expect(await listLocks(pool)).toEqual([]);
    expect([pool.totalCount, pool.waitingCount]).toEqual([1, 0]);
    client.release();
    const others = "select from pg_stat_activity where datname = current_database() and pid <> $1";
    const witness = await connect();
    await until(async () => {
      const rows = (await witness.query(`${others} and pid <> pg_backend_pid()`, [pid])).rows;
      return rows.length === 0;
    });
  });

  test("is ended by its signal, with its connection: the caller's own reason", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    proxy.freeze();
    const caller = new AbortController();
    const look = listLocks(pool, { signal: caller.signal });
    await until(() => proxy.size === 1);
    const reason = new Error("had enough");
    caller.abort(reason);
    await expect(look).rejects.toBe(reason);
    await expect(listLocks(pool, { signal: caller.signal })).rejects.toBe(reason);
    proxy.cut();
    await until(() => proxy.size === 0);
  });

  test("at a database that can't be read rejects with a DatabaseError, no password", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await proxy.refuse();
    const refused = new URL(proxy.url);
    [refused.username, refused.password] = ["alice", "hunter2"];
    for (const url of [refused.href, "postgres://alice:hunter2@127.0.0.1:none/db"]) {
      const error: unknown = await listLocks(createPool({ connectionString: url })).catch((error) => error);
      expect(error).toBeInstanceOf(DatabaseError);
      expect(String(error)).toContain("Looking at locks failed");
      expect(`${error} ${JSON.stringify(error)} ${String((error as Error).cause)}`).not.toContain("hunter2");
    }
  });
});

describe("endHolders", () => {
  test.each(["dedicated", "shared"] as const)(
    "ends the session of a holder, which hears of it: %s",
    async (sessions) => {
      await using locker = createLocker({ sessions });
      const key = uniqueKey();
      const lock = await locker.acquire(key);
      const pids = await holdersOf(lock.id);
      expect(await endHolders(createPool(), { id: lock.id, pids })).toEqual(pids);
      await until(() => lock.signal.aborted);
      expect(lock.held).toBe(false);
      await until(async () => (await advisoryLocks()).length === 0);
    },
  );

  test("ends no session that has released the lock, nor its new holder", async () => {
    const [before, after, waiter] = [await connect(), await connect(), await connect()];
    const [id, other] = [uniqueId(), uniqueId()];
    // The session that held it holds another lock now.
    await before.query("select pg_advisory_lock($1)", [other]);
    await after.query("select pg_advisory_lock($1)", [id]);
    const waits = waiter.query("select pg_advisory_lock($1)", [id]).catch(() => {});
    await until(async () => (await advisoryLocks()).some(({ granted }) => !granted));
    const pids = [before.processID, waiter.processID];
    expect(await endHolders(createPool(), { id, pids })).toEqual([]);
    expect(await holdersOf(id)).toEqual([after.processID]);
    expect(await holdersOf(other)).toEqual([before.processID]);
    await onServer("select pg_terminate_backend($1)", [waiter.processID]);
    await waits;
  });

  test("ends the given holders of a shared lock, and leaves the others", async () => {
    const [one, other] = [await connect(), await connect()];
    const id = lockId(0, uniqueKey());
    for (const client of [one, other]) await client.query("select pg_advisory_lock_shared($1)", [id]);
    expect(await endHolders(createPool(), { id, pids: [one.processID] })).toEqual([one.processID]);
    await until(async () => (await holdersOf(id)).length === 1);
    expect(await holdersOf(id)).toEqual([other.processID]);
  });

  test("without the right rejects with 42501; pg_signal_backend has the right", async () => {
    await using role = await createRole();
    await using owner = await createRole();
    const holder = await connect({ connectionString: owner.url });
    const id = uniqueId();
    await holder.query("select pg_advisory_lock($1)", [id]);
    const pids = [holder.processID];
    const pool = createPool({ connectionString: role.url });
    await expect(endHolders(pool, { id, pids })).rejects.toMatchObject({ sqlState: "42501" });
    expect(await holdersOf(id)).toEqual(pids);
    await onServer(`grant pg_signal_backend to ${role.name}`);
    expect(await endHolders(pool, { id, pids })).toEqual(pids);
    await until(async () => (await holdersOf(id)).length === 0);
  });
});
