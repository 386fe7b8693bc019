import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import { describe, expect, test } from "vitest";
import {
  DatabaseError,
  InvalidTtlError,
  LockExpiredError,
  LockLostError,
  lockId,
  type PostgresLocker,
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
import { createLocker } from "../support/locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";
import { emptyWrittenTable, write, written } from "../support/written-table.ts";

// The server ends a transaction that it hears nothing of after one TTL, and the caller has known before.

emptyWrittenTable();

const never = () => expect.unreachable();

async function idleTimeout(client: pg.ClientBase): Promise<string> {
  const { rows } = await client.query("show idle_in_transaction_session_timeout");
  return rows[0].idle_in_transaction_session_timeout;
}

/** Resolves when the lock is held, with a function that ends it. */
async function heldUntilEnded(
  locker: PostgresLocker,
  options: { client: pg.ClientBase; ttl: string },
): Promise<() => Promise<void>> {
  let end = (): void => {};
  let ended: Promise<void> | undefined;
  await new Promise<void>((begun) => {
    const fn = () => {
      begun();
      return new Promise<void>((resolve) => {
        end = resolve;
      });
    };
    ended = locker.withTransaction(uniqueKey(), fn, options);
  });
  return async () => {
    end();
    await ended;
  };
}

function block(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

const isFree = async (key: string): Promise<boolean> => (await holdersOf(lockId(0, key))).length === 0;

describe.each([false, true])("a link that dies (the client is the caller's: %s)", (callers) => {
  test.each<readonly [string, (client: pg.PoolClient) => Promise<unknown>]>([
    ["while the function does something else", () => new Promise(() => {})],
    ["under a statement of the function", (client) => client.query("select 1")],
  ])("%s: the call rejects, the server frees the lock later, and nothing is committed", async (_, waits) => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = createLocker({ pool: createPool({ connectionString: proxy.url }) });
    const client = await connect({ connectionString: proxy.url });
    if (callers) await client.query("begin");
    const key = uniqueKey();
    const running = locker.withTransaction(
      key,
      async (tx: pg.PoolClient) => {
        await tx.query(write, ["one"]);
        proxy.freeze();
        await waits(tx);
      },
      { ttl: 600, ...(callers && { client: client as unknown as pg.PoolClient }) },
    );
    const outcome = running.then(never, (error: unknown) => ({ error, at: performance.now() }));
    await until(async () => !(await isFree(key)));
    const next = await connect();
    const taken = "select pg_try_advisory_lock($1) as taken";
    await until(async () => (await next.query(taken, [lockId(0, key).toString()])).rows[0].taken, {
      interval: 1,
    });
    const takenAt = performance.now();
    const { error, at } = await outcome;
    expect(error).toBeInstanceOf(LockExpiredError);
    expect(error).toMatchObject({ key, ttl: 600 });
    expect(at).toBeLessThan(takenAt);
    expect(await written()).toEqual([]);
    proxy.cut();
  });
});

test.each([false, true])(
  "a grant that comes too late runs no function (the caller's: %s)",
  async (callers) => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = createLocker({ pool: createPool({ connectionString: proxy.url }) });
    await locker.ping();
    const client = await connect({ connectionString: proxy.url });
    if (callers) await client.query("begin");
    const key = uniqueKey();
    // Each way: the server has ended the transaction by the time of the answer, or is about to.
    proxy.delay(350);
    const options = { ttl: 600, ...(callers && { client: client as unknown as pg.PoolClient }) };
    let isRun = false;
    const running = locker.withTransaction(
      key,
      () => {
        isRun = true;
      },
      options,
    );
    await expect(running).rejects.toMatchObject({ code: "LOCK_EXPIRED", key, ttl: 600 });
    expect(isRun).toBe(false);
    proxy.delay(0);
    proxy.cut();
    await until(() => isFree(key));
  },
);

describe("a transaction of the locker's own", () => {
  test("is kept alive for as long as its function takes, and commits", async () => {
    await using locker = createLocker();
    const value = await locker.withTransaction(
      uniqueKey(),
      async (client) => {
        await client.query(write, ["one"]);
        await delay(1_200);
        for (let i = 0; i < 20; i += 1) await client.query("select pg_sleep(0.02)");
        return 42;
      },
      { ttl: 300 },
    );
    expect(value).toBe(42);
    expect(await written()).toEqual(["one"]);
  });

  test("whose function runs a statement beyond the TTL: the statement is cancelled", async () => {
    await using locker = createLocker();
    const key = uniqueKey();
    const running = locker.withTransaction(
      key,
      async (client) => {
        await client.query(write, ["one"]);
        await client.query("select pg_sleep(60)");
      },
      { ttl: 500 },
    );
    await expect(running).rejects.toBeInstanceOf(LockExpiredError);
    await until(() => isFree(key));
    expect(await written()).toEqual([]);
  });

  test("whose event loop stands still beyond the TTL commits nothing, and says so", async () => {
    await using locker = createLocker();
    const key = uniqueKey();
    for (const after of [() => {}, () => delay(20)]) {
      const running = locker.withTransaction(
        key,
        async (client) => {
          await client.query(write, ["one"]);
          block(900);
          await after();
        },
        { ttl: 300 },
      );
      await expect(running).rejects.toSatisfy(
        (error) => error instanceof LockExpiredError || error instanceof LockLostError,
      );
      await until(() => isFree(key));
      expect(await written()).toEqual([]);
    }
  });

  test("that the server ended for being idle, before this process knew, is lost", async () => {
    await using locker = createLocker();
    const key = uniqueKey();
    const running = locker.withTransaction(
      key,
      async (client) => {
        await client.query("set local idle_in_transaction_session_timeout = 50");
        await delay(5_000);
      },
      { ttl: "30s" },
    );
    await expect(running).rejects.toBeInstanceOf(LockLostError);
    await expect(running).rejects.toThrow(/idle-in-transaction/);
  });

  test("has the default with ttlEnforcement: server, otherwise only what is asked for", async () => {
    const options = "-c idle_in_transaction_session_timeout=77s";
    const pool = createPool({ options });
    const ask = (client: pg.PoolClient) => idleTimeout(client);
    await using enforced = createLocker({ pool, ttlEnforcement: "server" });
    expect(await enforced.withTransaction(uniqueKey(), ask)).toBe("30s");
    expect(await enforced.withTransaction(uniqueKey(), ask, { ttl: "1m" })).toBe("1min");
    await using locker = createLocker({ pool });
    expect(await locker.withTransaction(uniqueKey(), ask)).toBe("77s");
    expect(await locker.withTransaction(uniqueKey(), ask, { ttl: 1234.2 })).toBe("1235ms");
    const client = await pool.connect();
    expect(await idleTimeout(client)).toBe("77s");
    client.release();
  });

  test("that waited for its lock has its TTL from the grant", async () => {
    await using locker = createLocker({ ttlEnforcement: "server" });
    const holder = await connect();
    const key = uniqueKey();
    await holder.query("select pg_advisory_lock($1)", [lockId(0, key).toString()]);
    const running = locker.withTransaction(
      key,
      async (client: pg.PoolClient) => {
        await delay(700);
        return idleTimeout(client);
      },
      { ttl: 400, wait: true },
    );
    await until(async () => (await advisoryLocks()).some(({ granted }) => !granted));
    await delay(700);
    await holder.query("select pg_advisory_unlock_all()");
    expect(await running).toBe("400ms");
  });

  test.each([0, -1, 0.4, Number.NaN, Number.POSITIVE_INFINITY, 2 ** 31, "5", "25d", "", null, true, {}])(
    "a TTL of %s is refused, before anything is done",
    async (ttl) => {
      const pool = createPool();
      await using locker = createLocker({ pool });
      const running = locker.withTransaction(uniqueKey(), never, { ttl: ttl as number });
      await expect(running).rejects.toBeInstanceOf(InvalidTtlError);
      expect(pool.totalCount).toBe(0);
    },
  );
});

describe("a client of the caller's", () => {
  test.each(["succeeds", "fails"])("has its own time-out again when the function %s", async (how) => {
    await using locker = createLocker();
    const client = await connect();
    await client.query("begin");
    await client.query("set local idle_in_transaction_session_timeout = '55s'");
    const running = locker.withTransaction(
      uniqueKey(),
      async () => {
        expect(await idleTimeout(client)).toBe("400ms");
        await delay(900);
        if (how === "fails") throw new Error("its own");
      },
      { client, ttl: 400 },
    );
    await running.catch((error: Error) => expect(error.message).toBe("its own"));
    expect(await idleTimeout(client)).toBe("55s");
    await client.query("commit");
    expect(await idleTimeout(client)).toBe("0");
  });

  test("keeps the smaller TTL of the lock around it", async () => {
    await using locker = createLocker();
    await locker.withTransaction(
      uniqueKey(),
      async (client: pg.PoolClient) => {
        const inner = () => idleTimeout(client);
        expect(await locker.withTransaction(uniqueKey(), inner, { client, ttl: "20s" })).toBe("10s");
        expect(await locker.withTransaction(uniqueKey(), inner, { client, ttl: "5s" })).toBe("5s");
        expect(await idleTimeout(client)).toBe("10s");
      },
      { ttl: "10s" },
    );
  });

  test("keeps it as another object, too, such as that of an ORM's nested transaction", async () => {
    await using locker = createLocker();
    const session = await connect();
    await session.query("begin");
    await session.query("set local idle_in_transaction_session_timeout = '55s'");
    const another = () => ({ query: (text: string, values?: unknown[]) => session.query(text, values) });
    const inner = () => idleTimeout(session);
    const within = (options: object) => locker.withTransaction(uniqueKey(), inner, options);
    await locker.withTransaction(
      uniqueKey(),
      async () => {
        await session.query("savepoint nested");
        expect(await within({ client: another(), ttl: "20s" })).toBe("10s");
        expect(await within({ client: another(), ttl: "5s" })).toBe("5s");
        const deeper = () => within({ client: another(), ttl: "20s" });
        const options = { client: another(), ttl: "4s" };
        expect(await locker.withTransaction(uniqueKey(), deeper, options)).toBe("4s");
        expect(await within({ client: another() })).toBe("10s");
        await session.query("release savepoint nested");
        expect(await idleTimeout(session)).toBe("10s");
      },
      { client: another(), ttl: "10s" },
    );
    expect(await idleTimeout(session)).toBe("55s");
    // Without a lock around it, a setting of the transaction's own doesn't matter.
    expect(await within({ client: another(), ttl: "70s" })).toBe("70s");
    await locker.withTransaction(
      uniqueKey(),
      async (client: pg.PoolClient) => {
        const inner = () => idleTimeout(client);
        const wrapped = { query: (text: string, values?: unknown[]) => client.query(text, values) };
        const options = { client: wrapped, ttl: "20s" };
        expect(await locker.withTransaction(uniqueKey(), inner, options)).toBe("10s");
      },
      { ttl: "10s" },
    );
    await session.query("rollback");
  });

  test.each<readonly [around: string | undefined, ends: readonly string[], idle: readonly string[]]>([
    ["10s", ["4s", "6s"], ["6s", "10s"]],
    ["10s", ["6s", "4s"], ["4s", "10s"]],
    ["5s", ["6s", "4s"], ["4s", "5s"]],
    [undefined, ["4s", "6s"], ["6s", "55s"]],
    [undefined, ["6s", "4s"], ["4s", "55s"]],
  ])("keeps the smallest TTL of those that are left (around: %s, ends: %s)", async (around, ends, idle) => {
    await using locker = createLocker();
    const client = await connect();
    await client.query("begin");
    await client.query("set local idle_in_transaction_session_timeout = '55s'");
    const outer = async () => {
      const end: Record<string, () => Promise<void>> = {};
      for (const ttl of ["6s", "4s"]) end[ttl] = await heldUntilEnded(locker, { client, ttl });
      expect(await idleTimeout(client)).toBe("4s");
      const seen: string[] = [];
      for (const ttl of ends) {
        await end[ttl]?.();
        seen.push(await idleTimeout(client));
      }
      expect(seen).toEqual(idle);
    };
    await locker.withTransaction(uniqueKey(), outer, {
      client,
      ...(around !== undefined && { ttl: around }),
    });
    expect(await idleTimeout(client)).toBe("55s");
    await client.query("rollback");
  });

  test("has the smaller TTL of a lock within it even if the one around ends first", async () => {
    await using locker = createLocker();
    const client = await connect();
    await client.query("begin");
    const outer = () => heldUntilEnded(locker, { client, ttl: "4s" }).then((end) => ({ end }));
    const { end } = await locker.withTransaction(uniqueKey(), outer, { client, ttl: "10s" });
    expect(await idleTimeout(client)).toBe("4s");
    await end();
    expect(await idleTimeout(client)).toBe("0");
    await client.query("rollback");
  });

  test("of another library is not kept alive: the server ends its idle transaction", async () => {
    await using locker = createLocker();
    const session = await connect();
    const client = { query: (text: string, values?: unknown[]) => session.query(text, values) };
    const key = uniqueKey();
    await session.query("begin");
    const idle = locker.withTransaction(key, () => until(() => isFree(key)), { client, ttl: 300 });
    await expect(idle).rejects.toBeInstanceOf(DatabaseError);
    const gone = await onServer("select from pg_stat_activity where pid = $1", [session.processID]);
    expect(gone).toEqual([]);
  });

  test("a refusal, and a wait that passes, leave its settings as they were", async () => {
    await using locker = createLocker();
    await using lock = await locker.acquire(uniqueKey());
    const client = await connect();
    await client.query("begin");
    await client.query("set local lock_timeout = '77s'");
    const all = async () => {
      const { rows } = await client.query(
        `select current_setting('idle_in_transaction_session_timeout') as idle, current_setting('lock_timeout') as lock,
                current_setting('statement_timeout') as statement, current_setting('pg_locker.transaction', true) as marks`,
      );
      return rows[0];
    };
    for (const wait of [0, 50]) {
      const refused = locker.withTransaction(lock.key, never, { client, ttl: "10s", wait });
      await expect(refused).rejects.toMatchObject({ code: "LOCK_NOT_ACQUIRED" });
      const { marks, ...settings } = await all();
      expect(settings).toEqual({ idle: "0", lock: "77s", statement: "0" });
      expect(marks ?? "").toBe("");
    }
    await locker.withTransaction(uniqueKey(), () => {}, { client, ttl: "10s" });
    expect(await all()).toEqual({ idle: "0", lock: "77s", statement: "0", marks: "" });
    await client.query("commit");
  });
});
