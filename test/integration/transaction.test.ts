import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import postgres from "postgres";
import { describe, expect, test } from "vitest";
import {
  DatabaseError,
  InvalidConfigError,
  LockerClosedError,
  lockId,
  type PostgresLocker,
} from "../../src/index.ts";
import { fromPostgresJs } from "../../src/orm/index.ts";
import {
  advisoryLocks,
  connect,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
} from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { createLocker } from "../support/locker.ts";
import { PgBouncer } from "../support/pgbouncer.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";
import { emptyWrittenTable, write, written } from "../support/written-table.ts";

emptyWrittenTable();

describe("withTransaction", () => {
  test("holds the lock in the transaction, commits what fn wrote, returns fn's result", async () => {
    const pool = createPool();
    await using locker = createLocker({ pool });
    const key = uniqueKey();
    const answer = await locker.withTransaction(key, async (client: pg.PoolClient) => {
      expect(await holdersOf(lockId(0, key))).toHaveLength(1);
      await client.query(write, ["one"]);
      expect(await written()).toEqual([]);
      return 42;
    });
    expect(answer).toBe(42);
    expect(await written()).toEqual(["one"]);
    expect(await advisoryLocks()).toEqual([]);
    expect(pool.idleCount).toBe(pool.totalCount);
  });

  test("rolls back if fn fails, and rejects with its error", async () => {
    await using locker = createLocker();
    const key = uniqueKey();
    const error = new Error("its own");
    const failing = locker.withTransaction(key, async (client) => {
      await client.query(write, ["one"]);
      throw error;
    });
    await expect(failing).rejects.toBe(error);
    const thrown = locker.withTransaction(key, () => {
      throw error;
    });
    await expect(thrown).rejects.toBe(error);
    expect(await written()).toEqual([]);
    await locker.withTransaction(key, () => {});
  });

  test("rejects if fn ignored a failed statement, because nothing was committed then", async () => {
    await using locker = createLocker();
    const running = locker.withTransaction(uniqueKey(), async (client) => {
      await client.query(write, ["one"]);
      await client.query("select 1/0").catch(() => {});
    });
    await expect(running).rejects.toThrow(
      "a statement of the transaction had failed, and so it was rolled back",
    );
    expect(await written()).toEqual([]);
  });

  test.each(["commit", "rollback"])("rejects if fn ended the transaction itself, by %s", async (end) => {
    const pool = createPool();
    await using locker = createLocker({ pool });
    const key = uniqueKey();
    const running = locker.withTransaction(key, async (client) => {
      await client.query(write, ["under the lock"]);
      await client.query(end);
      await client.query(write, ["without it"]);
    });
    await expect(running).rejects.toThrow("the function had ended the transaction itself, and so the lock");
    if (!isOverPostgresJs) expect(pool.idleCount).toBe(1);
    await locker.withTransaction(key, () => {});
  });

  test("rejects with what the commit says", async () => {
    const client = await connect();
    await client.query("create table checked (a int unique deferrable initially deferred)");
    await using locker = createLocker();
    const running = locker.withTransaction(uniqueKey(), async (tx) => {
      await tx.query("insert into checked values (1), (1)");
    });
    await expect(running).rejects.toMatchObject({ name: "DatabaseError", sqlState: "23505" });
    await client.query("drop table checked");
  });

  test("is excluded by a lock, and excludes it", async () => {
    await using locker = createLocker();
    const key = uniqueKey();
    const lock = await locker.acquire(key);
    const refused = locker.withTransaction(key, () => expect.unreachable());
    await expect(refused).rejects.toMatchObject({ code: "LOCK_NOT_ACQUIRED", reason: "held" });
    await lock.release();
    await locker.withTransaction(key, async () => {
      expect(await locker.tryAcquire(key)).toBeUndefined();
      const wait = locker.acquire(key, { wait: true });
      await expect(wait).rejects.toThrow("not re-entrant");
    });
    const shared = { mode: "shared" } as const;
    await locker.withTransaction(
      key,
      async () => {
        await locker.withTransaction(key, () => {}, shared);
        expect(await locker.tryAcquire(key)).toBeUndefined();
      },
      shared,
    );
  });

  test("waits, and sees what the one before wrote", async () => {
    await using one = createLocker();
    await using two = createLocker();
    const options = "-c default_transaction_isolation=repeatable\\ read";
    await using three = createLocker({ pool: createPool({ options }) });
    const key = uniqueKey();
    const append = async (client: pg.PoolClient): Promise<void> => {
      const { rows } = await client.query("select count(*) as count from written");
      await client.query(write, [String(Number(rows[0].count) + 1).padStart(3, "0")]);
    };
    const rounds = Array.from({ length: 45 }, (_, i) =>
      ([one, two, three][i % 3] as PostgresLocker).withTransaction(key, append, { wait: true }),
    );
    await Promise.all(rounds);
    const all = await written();
    expect(all).toHaveLength(45);
    expect(all.at(-1)).toBe("045");
  });

  test("a wait that passes, or is aborted, runs nothing and leaves nothing", async () => {
    const pool = createPool();
    await using locker = createLocker({ pool });
    const lock = await locker.acquire(uniqueKey());
    const never = () => expect.unreachable();
    const overdue = locker.withTransaction(lock.key, never, { wait: "20ms" });
    await expect(overdue).rejects.toMatchObject({ reason: "wait-timeout", waited: 20 });
    const aborting = new AbortController();
    const reason = new Error("the caller's own");
    const waiting = locker.withTransaction(lock.key, never, { wait: true, signal: aborting.signal });
    aborting.abort(reason);
    await expect(waiting).rejects.toBe(reason);
    await lock.release();
    await until(() => pool.idleCount === pool.totalCount);
    expect(await advisoryLocks()).toEqual([]);
  });

  test("a storm of 500 aborts leaves no transaction, lock or checked-out connection", async () => {
    const pool = createPool({ max: 4 });
    await using locker = createLocker({ pool });
    const key = uniqueKey();
    const reason = new Error("the caller's own");
    const caller = async (): Promise<void> => {
      for (let i = 0; i < 25; i += 1) {
        const aborting = new AbortController();
        setTimeout(() => aborting.abort(reason), Math.random() * 12);
        const options = { wait: true, signal: aborting.signal } as const;
        await locker
          .withTransaction(key, () => delay(1), options)
          .catch((error: unknown) => {
            expect(error).toBe(reason);
          });
      }
    };
    await Promise.all(Array.from({ length: 20 }, caller));
    await until(() => pool.idleCount === pool.totalCount);
    const open = () =>
      onServer("select from pg_stat_activity where datname = $1 and state like 'idle in transaction%'", [
        new URL(databaseUrl()).pathname.slice(1),
      ]);
    await until(async () => (await open()).length === 0);
  });

  test("if its session ends midway, nothing is committed, and the process lives", async () => {
    await using locker = createLocker();
    const key = uniqueKey();
    const running = locker.withTransaction(key, async (client) => {
      await client.query(write, ["one"]);
      const [pid] = await holdersOf(lockId(0, key));
      await onServer("select pg_terminate_backend($1)", [pid]);
      await until(async () => (await holdersOf(lockId(0, key))).length === 0);
    });
    await expect(running).rejects.toBeInstanceOf(DatabaseError);
    expect(await written()).toEqual([]);
    await locker.withTransaction(key, () => {});
  });

  test("close ends a transaction that is open: nothing of it is kept", async () => {
    const locker = createLocker();
    const key = uniqueKey();
    const running = locker.withTransaction(key, async (client) => {
      await client.query(write, ["one"]);
      await locker.close();
    });
    await expect(running).rejects.toBeInstanceOf(LockerClosedError);
    await until(async () => (await advisoryLocks()).length === 0);
    expect(await written()).toEqual([]);
    await expect(locker.withTransaction(key, () => {})).rejects.toBeInstanceOf(LockerClosedError);
  });

  test("close() waits for a commit under way, and its caller is told the outcome", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const locker = createLocker({ pool: createPool({ connectionString: proxy.url }) });
    const running = locker.withTransaction(uniqueKey(), async (client) => {
      await client.query(write, ["one"]);
      proxy.freeze({ direction: "toClient" });
      return 42;
    });
    await until(async () => (await written()).length === 1);
    const closed = locker.close();
    proxy.thaw();
    expect(await running).toBe(42);
    await closed;
    expect(await written()).toEqual(["one"]);
  });

  test("an unknown option is refused", async () => {
    await using locker = createLocker();
    const misspelt = { tll: "5s" } as object;
    await expect(locker.withTransaction(uniqueKey(), () => {}, misspelt)).rejects.toThrow(
      "Expected `tll` to be absent: the options are ttl, wait, mode, signal, client",
    );
  });
});

describe("withTransaction on a client of the caller's", () => {
  test("keeps the lock until the caller's commit, which is also that of what fn wrote", async () => {
    await using locker = createLocker();
    const client = await connect();
    const key = uniqueKey();
    await client.query("begin");
    await client.query(write, ["before"]);
    await locker.withTransaction(key, (tx) => tx.query(write, ["one"]), { client });
    expect(await holdersOf(lockId(0, key))).toHaveLength(1);
    expect(await written()).toEqual([]);
    await client.query("commit");
    expect(await written()).toEqual(["before", "one"]);
    expect(await advisoryLocks()).toEqual([]);
  });

  test("leaves the transaction to the caller if fn fails", async () => {
    await using locker = createLocker();
    const client = await connect();
    const key = uniqueKey();
    await client.query("begin");
    const failing = locker.withTransaction(key, () => Promise.reject(new Error("its own")), { client });
    await expect(failing).rejects.toThrow("its own");
    await client.query(write, ["one"]);
    await client.query("commit");
    expect(await written()).toEqual(["one"]);
  });

  test("is refused if there is no transaction, and holds nothing then", async () => {
    await using locker = createLocker();
    const client = await connect();
    const running = locker.withTransaction(uniqueKey(), () => expect.unreachable(), { client });
    await expect(running).rejects.toBeInstanceOf(InvalidConfigError);
    await expect(running).rejects.toThrow("Expected `client` to be a client with a transaction begun");
    const pool = createPool({ max: 1 }) as unknown as pg.Client;
    await expect(locker.withTransaction(uniqueKey(), () => {}, { client: pool })).rejects.toThrow("`client`");
    const nothing = { client: {} } as unknown as { client: pg.Client };
    await expect(locker.withTransaction(uniqueKey(), () => {}, nothing)).rejects.toThrow(
      "Expected `client` to be a client with a method `query`, of node-postgres or made by `pg-locker/orm`, got an object",
    );
    expect(await advisoryLocks()).toEqual([]);
  });
});

test("a client whose library changes what it reads is refused, and has no lock", async () => {
  await using locker = createLocker();
  const changed = (value: unknown) => ({ changed: value });
  const sql = postgres(databaseUrl(), { max: 1, transform: { value: { from: changed } } });
  try {
    await sql.begin(async (tx) => {
      const running = locker.withTransaction(uniqueKey(), () => expect.unreachable(), {
        client: fromPostgresJs(tx),
      });
      await expect(running).rejects.toThrow(
        expect.objectContaining({ code: "INVALID_CONFIG", field: "client" }),
      );
      await expect(running).rejects.toThrow("their values unchanged");
      expect(await advisoryLocks()).toEqual([]);
    });
  } finally {
    await sql.end();
  }
});

describe.skipIf(!PgBouncer.installed)("withTransaction behind PgBouncer in transaction mode", () => {
  test("excludes, commits and rolls back as it does without one", async () => {
    await using bouncer = await PgBouncer.start({ url: databaseUrl(), mode: "transaction", poolSize: 3 });
    await using one = createLocker({ pool: createPool({ connectionString: bouncer.url }) });
    await using two = createLocker({ pool: createPool({ connectionString: bouncer.url }) });
    const key = uniqueKey();
    let inside = 0;
    const run = (locker: PostgresLocker, what: string) =>
      locker.withTransaction(
        key,
        async (client) => {
          inside += 1;
          expect(inside).toBe(1);
          await client.query(write, [what]);
          inside -= 1;
          if (what.startsWith("bad")) throw new Error(what);
        },
        { wait: true },
      );
    const outcomes = await Promise.allSettled(
      ["a", "b", "bad c", "d"].map((what, i) => run(i % 2 === 0 ? one : two, what)),
    );
    expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "fulfilled", "rejected", "fulfilled"]);
    expect(await written()).toEqual(["a", "b", "d"]);
    await one.close();
    await two.close();
    expect(await advisoryLocks()).toEqual([]);
  });
});
