import pg from "pg";
import { describe, expect, test } from "vitest";
import {
  DatabaseError,
  InvalidConfigError,
  type Lock,
  LockLostError,
  LockNotAcquiredError,
  PoolerDetectedError,
} from "../../src/index.ts";
import {
  advisoryLocks,
  connect,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
} from "../support/database.ts";
import { ImitatedPooler } from "../support/imitated-pooler.ts";
import { createLocker } from "../support/locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

const listeners = (client: pg.Client) =>
  ["error", "end", "drain"].map((event) => client.listenerCount(event));

test("a lock is on the client's own session, and the client is as it was before", async () => {
  const pool = createPool();
  await using locker = createLocker({ pool });
  const client = await connect({ application_name: "mine" });
  const before = listeners(client);
  const settings = async () =>
    (await client.query("select name, setting from pg_settings order by name")).rows;
  const set = await settings();
  const lock = await locker.acquire(uniqueKey(), { client });
  expect(await holdersOf(lock.id)).toEqual([client.processID]);
  expect(lock.held).toBe(true);
  expect(await settings()).toEqual(set);
  // No other connection was used.
  expect(pool.totalCount).toBe(0);
  expect(await locker.tryAcquire(lock.key)).toBeUndefined();
  expect((await locker.inspect(lock.key)).holders).toMatchObject([{ own: true, applicationName: "mine" }]);
  await lock.release();
  expect(await holdersOf(lock.id)).toEqual([]);
  expect(listeners(client)).toEqual(before);
  expect((await client.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
});

test("any number of locks on a client add one listener for each event", async () => {
  await using locker = createLocker();
  const client = await connect();
  const before = listeners(client);
  const warnings: Error[] = [];
  const warned = (warning: Error): void => void warnings.push(warning);
  process.on("warning", warned);
  const keys = Array.from({ length: 15 }, () => uniqueKey());
  const locks = await Promise.all(keys.map((key) => locker.acquire(key, { client })));
  expect(listeners(client)).toEqual(before.map((count, at) => (at < 2 ? count + 1 : count)));
  // In a failed transaction a lock is given back later, once the client has finished another statement.
  await client.query("begin");
  await expect(client.query("select no_such_column")).rejects.toThrow();
  await Promise.all(locks.slice(1).map((lock) => lock.release()));
  await client.query("rollback");
  await until(() => client.listenerCount("drain") === before[2]);
  expect(locks[0]?.held).toBe(true);
  await locks[0]?.release();
  expect(listeners(client)).toEqual(before);
  // Warnings are emitted in a later step.
  await new Promise((resolve) => setImmediate(resolve));
  process.removeListener("warning", warned);
  expect(warnings).toEqual([]);
});

test("a pool's client can be used under its lock, and goes back to the pool", async () => {
  const pool = createPool({ max: 1 });
  await using locker = createLocker({ pool });
  const client = await pool.connect();
  try {
    await locker.withLock(
      uniqueKey(),
      async (lock) => {
        expect((await client.query("select 40 + 2 as n")).rows).toEqual([{ n: 42 }]);
        await lock.refresh();
        expect(lock.held).toBe(true);
      },
      { client },
    );
  } finally {
    client.release();
  }
  expect((await pool.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
});

test("the end of the client, or of its backend, is the loss of its lock", async () => {
  await using locker = createLocker();
  for (const end of [
    (client: pg.Client) => client.end(),
    (client: pg.Client) => onServer("select pg_terminate_backend($1)", [(client as never)["processID"]]),
  ]) {
    const client = await connect();
    const lock = await locker.acquire(uniqueKey(), { client });
    const running = expect(
      locker.withLock(uniqueKey(), () => new Promise(() => {}), { client }),
    ).rejects.toThrow(LockLostError);
    await until(async () => (await advisoryLocks()).length === 2);
    await end(client);
    await running;
    expect(lock.held).toBe(false);
    expect(lock.signal.reason).toBeInstanceOf(LockLostError);
    await expect(lock.release()).rejects.toMatchObject({ reason: "lost" });
    await until(async () => (await advisoryLocks()).length === 0);
  }
});

test("a lock that the caller unlocked by hand is found lost by the next refresh", async () => {
  await using locker = createLocker();
  const client = await connect();
  const lock = await locker.acquire(uniqueKey(), { client });
  await client.query("discard all");
  await expect(lock.refresh()).rejects.toMatchObject({ reason: "lost" });
  const another = await locker.acquire(lock.key, { client });
  await client.query("select pg_advisory_unlock_all()");
  await expect(another.release()).rejects.toMatchObject({ reason: "lost" });
});

test("two locks on one client are held and released independently", async () => {
  await using locker = createLocker();
  const client = await connect();
  const group = await locker.acquireAll([uniqueKey(), uniqueKey()], { client });
  const [one, other] = group.locks;
  expect(await holdersOf(other?.id ?? 0n)).toEqual([client.processID]);
  await one?.release();
  expect(other?.held).toBe(true);
  await other?.refresh();
  await other?.release();
});

describe("one key twice on a client", () => {
  test.each([{}, { wait: "5s" }, { mode: "shared" }] as const)("is refused, with %o", async (options) => {
    await using locker = createLocker();
    await using other = createLocker();
    const client = await connect();
    await using lock = await locker.acquire(uniqueKey(), { client, mode: "shared" });
    for (const each of [locker, other]) {
      const error = await each.acquire(lock.key, { client, ...options }).catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(LockNotAcquiredError);
      expect(error).toMatchObject({
        reason: "held",
        message: expect.stringContaining("or that session's transaction, already holds it"),
      });
    }
    expect(lock.held).toBe(true);
  });

  test("is refused if it was taken by hand, or in a transaction", async () => {
    await using locker = createLocker();
    const client = await connect();
    const { id, key } = await locker.inspect(uniqueKey());
    await client.query("select pg_advisory_lock($1)", [id.toString()]);
    await expect(locker.acquire(key, { client })).rejects.toThrow(
      /or that session's transaction, already holds it/,
    );
    await client.query(`select pg_advisory_unlock_all(); begin; select pg_advisory_xact_lock(${id})`);
    await expect(locker.acquire(key, { client })).rejects.toThrow(
      /or that session's transaction, already holds it/,
    );
    await client.query("rollback");
    await (await locker.acquire(key, { client })).release();
  });

  test("at the same moment is granted to one of them, waiting or not", async () => {
    await using locker = createLocker();
    await using other = createLocker();
    const client = await connect();
    const key = uniqueKey();
    const outcomes = await Promise.allSettled([
      locker.acquire(key, { client }),
      other.acquire(key, { client }),
      other.acquire(key, { client, wait: "5s" }),
    ]);
    const got = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
    expect(got).toHaveLength(1);
    await got[0]?.release();
    expect(await holdersOf(got[0]?.id ?? 0n)).toEqual([]);
  });
});

describe("a wait on a client", () => {
  test("is a wait in the server, and gets the lock when it is released", async () => {
    await using locker = createLocker();
    await using other = createLocker();
    const client = await connect();
    const before = (await client.query("show lock_timeout")).rows;
    const held = await other.acquire(uniqueKey());
    const waiting = locker.acquire(held.key, { client, wait: true });
    await until(async () =>
      (await locker.inspect(held.key)).waiters.some(({ pid }) => pid === client.processID),
    );
    await held.release();
    const lock = await waiting;
    expect(await holdersOf(lock.id)).toEqual([client.processID]);
    expect((await client.query("show lock_timeout")).rows).toEqual(before);
    await lock.release();
    expect(await holdersOf(lock.id)).toEqual([]);
  });

  test("ends at its bound, with the client as it was, in a transaction too", async () => {
    await using locker = createLocker();
    await using held = await locker.acquire(uniqueKey());
    const client = await connect();
    await client.query("begin; create temporary table kept (n int); set local lock_timeout = '7s'");
    const error = await locker.acquire(held.key, { client, wait: "50ms" }).catch((reason: unknown) => reason);
    expect(error).toMatchObject({ reason: "wait-timeout" });
    await until(async () => (await locker.inspect(held.key)).waiters.length === 0);
    expect((await client.query("show lock_timeout")).rows).toEqual([{ lock_timeout: "7s" }]);
    await client.query("insert into kept values (1); commit");
  });

  test("in a transaction, leaves lock_timeout as it was after a grant", async () => {
    await using locker = createLocker();
    const held = await locker.acquire(uniqueKey());
    const client = await connect();
    await client.query("begin; set local lock_timeout = '7s'");
    const waiting = locker.acquire(held.key, { client, wait: true });
    await until(async () => (await locker.inspect(held.key)).waiters.length === 1);
    await held.release();
    const lock = await waiting;
    expect((await client.query("show lock_timeout")).rows).toEqual([{ lock_timeout: "7s" }]);
    await client.query("commit");
    await lock.release();
  });

  test("ends with its signal, and leaves nothing behind", async () => {
    await using locker = createLocker();
    const held = await locker.acquire(uniqueKey());
    const client = await connect();
    const leaving = new AbortController();
    const waiting = locker.acquire(held.key, { client, wait: true, signal: leaving.signal });
    await until(async () => (await locker.inspect(held.key)).waiters.length === 1);
    const reason = new Error("enough");
    leaving.abort(reason);
    await expect(waiting).rejects.toBe(reason);
    // The client is free again, and nobody holds the lock.
    expect((await client.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
    await held.release();
    expect(await holdersOf(held.id)).toEqual([]);
    await (await locker.acquire(held.key, { client })).release();
  });

  test("ends with the locker, and with the client", async () => {
    const locker = createLocker();
    await using other = createLocker();
    await using held = await other.acquire(uniqueKey());
    const [one, two] = [await connect(), await connect()];
    const ofClient = locker.acquire(held.key, { client: one, wait: true }).catch((reason: unknown) => reason);
    const ofLocker = locker.acquire(held.key, { client: two, wait: true }).catch((reason: unknown) => reason);
    await until(async () => (await other.inspect(held.key)).waiters.length === 2);
    await onServer("select pg_terminate_backend($1)", [one.processID]);
    expect(await ofClient).toBeInstanceOf(DatabaseError);
    await locker.close();
    expect(await ofLocker).toMatchObject({ code: "LOCKER_CLOSED" });
    expect((await two.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
    expect((await other.inspect(held.key)).waiters).toEqual([]);
  });

  test("of two clients for each other's locks is a deadlock that the server finds", async () => {
    await using locker = createLocker();
    const [one, two] = [await connect(), await connect()];
    const [a, b] = [uniqueKey("a"), uniqueKey("b")];
    const first = await locker.acquire(a, { client: one });
    const second = await locker.acquire(b, { client: two });
    const errors: unknown[] = [];
    const cross = async (key: string, client: pg.Client, own: Lock): Promise<void> => {
      const lock = await locker
        .acquire(key, { client, wait: "15s" })
        .catch((error) => void errors.push(error));
      await own.release();
      await lock?.release();
    };
    await Promise.all([cross(b, one, first), cross(a, two, second)]);
    expect(errors).toEqual([expect.objectContaining({ sqlState: "40P01" })]);
  });
});

describe("in a transaction of the client", () => {
  test("the lock outlives a rollback, and is released after it", async () => {
    await using locker = createLocker();
    const client = await connect();
    await client.query("begin");
    const lock = await locker.acquire(uniqueKey(), { client });
    await client.query("rollback");
    expect(await holdersOf(lock.id)).toEqual([client.processID]);
    await lock.refresh();
    await lock.release();
    expect(await holdersOf(lock.id)).toEqual([]);
  });

  test("that has failed, a refresh keeps the lock, and its end releases it", async () => {
    await using locker = createLocker();
    const client = await connect();
    const before = listeners(client);
    const lock = await locker.acquire(uniqueKey(), { client });
    await client.query("begin");
    await expect(client.query("select 1 / 0")).rejects.toThrow();
    await lock.refresh();
    expect(lock.held).toBe(true);
    await lock.release();
    expect(lock.held).toBe(false);
    expect(await holdersOf(lock.id)).toEqual([client.processID]);
    await expect(locker.acquire(lock.key, { client })).rejects.toThrow(
      /or that session's transaction, already holds it/,
    );
    await expect(client.query("select 1")).rejects.toThrow(/aborted/);
    await client.query("rollback");
    await until(async () => (await holdersOf(lock.id)).length === 0);
    await until(() => listeners(client).join() === before.join());
    await (await locker.acquire(lock.key, { client })).release();
  });

  test("that has failed, a lock is not taken, and the wait for one is over", async () => {
    await using locker = createLocker();
    const client = await connect();
    await client.query("begin");
    await expect(client.query("select 1 / 0")).rejects.toThrow();
    for (const wait of [0, "10s", true] as const) {
      const error = await locker.acquire(uniqueKey(), { client, wait }).catch((reason: unknown) => reason);
      expect(error).toMatchObject({ code: "DATABASE_ERROR", sqlState: "25P02" });
    }
    await client.query("rollback");
  });

  test("withLock rejects with the error of its function, and leaves no lock behind", async () => {
    await using locker = createLocker();
    const client = await connect();
    const key = uniqueKey();
    await client.query("begin");
    const running = locker.withLock(key, () => client.query("select 1 / 0"), { client });
    await expect(running).rejects.toThrow("division by zero");
    await client.query("rollback");
    await until(async () => (await advisoryLocks()).length === 0);
  });
});

test("a client that is busy with a statement of the caller's is waited for", async () => {
  await using locker = createLocker();
  const gate = await connect();
  const client = await connect();
  await gate.query("select pg_advisory_lock(1, 1)");
  const busy = client.query("select pg_advisory_lock(1, 1)");
  const acquiring = locker.acquire(uniqueKey(), { client });
  await gate.query("select pg_advisory_unlock_all()");
  await busy;
  const lock = await acquiring;
  expect(lock.held).toBe(true);
  await lock.release();
});

test("a lock that is granted after its caller has left is released", async () => {
  await using locker = createLocker();
  const gate = await connect();
  const client = await connect();
  await gate.query("select pg_advisory_lock(1, 1)");
  const busy = client.query("select pg_advisory_lock(1, 1)");
  const leaving = new AbortController();
  const key = uniqueKey();
  const acquiring = locker.acquire(key, { client, signal: leaving.signal });
  leaving.abort(new Error("enough"));
  await expect(acquiring).rejects.toThrow("enough");
  await gate.query("select pg_advisory_unlock_all()");
  await busy;
  await client.query("select pg_advisory_unlock(1, 1)");
  await until(async () => (await advisoryLocks()).length === 0);
  await (await locker.acquire(key, { client })).release();
});

test("a link that falls silent ends the lock for its holder at its TTL", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await using locker = createLocker();
  const client = new pg.Client({ connectionString: proxy.url });
  client.on("error", () => {});
  await client.connect();
  const running = locker.withLock(
    uniqueKey(),
    () => {
      proxy.freeze();
      return new Promise(() => {});
    },
    { client, ttl: "300ms" },
  );
  // A refresh that gets no answer, or the TTL, whichever comes first.
  await expect(running).rejects.toMatchObject({ code: expect.stringMatching(/^LOCK_(LOST|EXPIRED)$/) });
  await client.end().catch(() => {});
}, 20_000);

test("close() releases the lock, and leaves the client alone", async () => {
  const locker = createLocker();
  const client = await connect();
  const lock = await locker.acquire(uniqueKey(), { client });
  await locker.close();
  expect(lock.held).toBe(false);
  expect(await holdersOf(lock.id)).toEqual([]);
  expect((await client.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
});

test("a fencing token grows, whenever the client's transaction began", async () => {
  await using locker = createLocker();
  const client = await connect();
  // This transaction has its id before the others have theirs.
  await client.query("begin; select pg_current_xact_id()");
  const key = uniqueKey();
  const tokens: bigint[] = [];
  for (const on of [undefined, client, undefined]) {
    await using lock = await locker.acquire(key, { fencing: true, ...(on && { client: on }) });
    tokens.push(lock.fencingToken ?? 0n);
  }
  await client.query("rollback");
  expect(tokens).toEqual([...tokens].sort((a, b) => (a < b ? -1 : 1)));
  expect(new Set(tokens).size).toBe(3);
});

test("a pooler that gives the client another session is detected", async () => {
  await using pooler = await ImitatedPooler.start(databaseUrl(), "transaction");
  await using locker = createLocker();
  const client = new pg.Client({ connectionString: pooler.url });
  client.on("error", () => {});
  await client.connect();
  await expect(locker.acquire(uniqueKey(), { client })).rejects.toThrow(PoolerDetectedError);
  await client.end();
});

describe("what is not a client is refused by name", () => {
  test.each<[string, () => unknown]>([
    ["a pool", () => createPool()],
    ["a client that isn't connected", () => new pg.Client(databaseUrl())],
    ["null", () => null],
    ["a string", () => databaseUrl()],
    ["an object with a query", () => ({ query: async () => ({ rows: [] }) })],
    [
      "an object that looks like one",
      () => ({
        query: async () => ({ rows: [{ answer: "7" }] }),
        on() {},
        removeListener() {},
        processID: 1,
      }),
    ],
  ])("%s", async (_, make) => {
    await using locker = createLocker();
    for (const wait of [0, true] as const) {
      const error = await locker
        .acquire("k", { client: make() as never, wait })
        .catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(InvalidConfigError);
      expect(error).toMatchObject({ field: "client" });
    }
  });

  test("a client that has ended", async () => {
    await using locker = createLocker();
    const client = await connect();
    await client.end();
    await expect(locker.acquire("k", { client })).rejects.toThrow(
      /`client` to be a client .* open, but an object \(\w+\) has none that is open$/,
    );
  });
});

test("with a TTL that the server enforces, a client is refused", async () => {
  await using locker = createLocker({ ttlEnforcement: "server" });
  const client = await connect();
  const acquiring = locker.acquire("k", { client });
  await expect(acquiring).rejects.toThrow(/`client` to be absent with `ttlEnforcement: "server"`/);
});
