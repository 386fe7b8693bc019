import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { describe, expect, test } from "vitest";
import { DatabaseError, InvalidConfigError, lockId } from "../../src/index.ts";
import {
  advisoryLocks,
  connect,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  type Session,
  uniqueKey,
} from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";
import { emptyWrittenTable, write, written } from "../support/written-table.ts";

// Whatever the state of a client, and whatever a function does to the transaction: there are never two holders at once, and nothing is
// committed without the lock.

emptyWrittenTable();

const never = () => expect.unreachable();
const alreadyHas = {
  code: "LOCK_NOT_ACQUIRED",
  reason: "held",
  message: expect.stringContaining("or that session's transaction, already holds it"),
};

/** A client as before node-postgres 8.17, which doesn't tell the state of the transaction. */
class Untelling extends pg.Client {
  override getTransactionStatus = undefined as never;
}
const drivers = [
  ["node-postgres", pg.Client],
  ["a node-postgres that does not tell whether it is in a transaction", Untelling],
] as const;

describe.each(drivers)("a transaction of the locker's own, with %s", (_, Client) => {
  const inOneStatement = (text: string) => (client: pg.PoolClient) => client.query(text);
  test.each<readonly [string, (client: pg.PoolClient) => Promise<unknown>, string[]]>([
    [
      "commit; begin; insert",
      inOneStatement("commit; begin; insert into written values ('after')"),
      ["before"],
    ],
    ["rollback; begin; insert", inOneStatement("rollback; begin; insert into written values ('after')"), []],
    ["commit and chain", inOneStatement("commit and chain"), ["before"]],
    ["rollback and chain", inOneStatement("rollback and chain"), []],
    [
      "the same, one by one",
      async (client) => {
        for (const each of ["commit", "begin", "insert into written values ('after')"])
          await client.query(each);
      },
      ["before"],
    ],
    ["rollback; begin; and then it goes quietly", inOneStatement("rollback; begin"), []],
    [
      "prepare transaction",
      (client) => client.query("prepare transaction 'pg_locker_test'").catch(() => {}),
      [],
    ],
    [
      "an end that it does not wait for",
      async (client) => {
        void client.query("commit; begin; insert into written values ('after')").catch(() => {});
      },
      ["before"],
    ],
    [
      "an end that comes between its own end and the commit",
      async (client) => {
        // The driver queues it behind the first statement after the function's end.
        queueMicrotask(() => {
          void client.query("commit").catch(() => {});
          void client.query("begin").catch(() => {});
          void client.query("insert into written values ('after')").catch(() => {});
        });
      },
      ["before"],
    ],
  ])("%s: rejects, and nothing is committed without the lock", async (_what, does, kept) => {
    const pool = createPool({ Client } as pg.PoolConfig);
    await using locker = createLocker({ pool });
    const key = uniqueKey();
    const running = locker.withTransaction(key, async (client: pg.PoolClient) => {
      await client.query(write, ["before"]);
      await does(client);
    });
    await expect(running).rejects.toBeInstanceOf(DatabaseError);
    expect(await written()).toEqual(kept);
    expect(await advisoryLocks()).toEqual([]);
    await until(() => pool.idleCount === pool.totalCount);
    await locker.withTransaction(key, () => {});
    const left = await onServer(
      "select from pg_stat_activity where datname = $1 and state like 'idle in transaction%'",
      [new URL(databaseUrl()).pathname.slice(1)],
    );
    expect(left).toEqual([]);
  });

  test("commits nothing if another caller has got the lock in the meantime", async () => {
    await using locker = createLocker({ pool: createPool({ Client } as pg.PoolConfig) });
    await using elsewhere = createLocker();
    const key = uniqueKey();
    const running = locker.withTransaction(key, async (client) => {
      await client.query("rollback; begin");
      await elsewhere.withTransaction(key, (tx) => tx.query(write, ["theirs"]));
      await client.query(write, ["without the lock"]);
    });
    await expect(running).rejects.toThrow("the function had ended the transaction itself, and so the lock");
    expect(await written()).toEqual(["theirs"]);
  });

  test
    .skipIf(isOverPostgresJs)
    .each(["begin", "begin; insert into written values ('left over')", "begin; select 1/0"])(
    "a pool's client left in a transaction (%s) is refused, and destroyed",
    async (left) => {
      const pool = createPool({ max: 1, Client } as pg.PoolConfig);
      const earlier = await pool.connect();
      const { processID } = earlier as unknown as Session;
      await earlier.query(left).catch(() => {});
      earlier.release();
      await using locker = createLocker({ pool });
      const running = locker.withTransaction(uniqueKey(), (client) => client.query(write, ["mine"]));
      await expect(running).rejects.toBeInstanceOf(DatabaseError);
      await expect(running).rejects.toThrow(/was in a transaction|transaction is aborted/);
      expect(pool.totalCount).toBe(0);
      await until(async () => {
        const alive = await onServer("select from pg_stat_activity where pid = $1", [processID]);
        return alive.length === 0;
      });
      await locker.withTransaction(uniqueKey(), (client) => client.query(write, ["another"]));
      expect(await written()).toEqual(["another"]);
    },
  );

  test("a pool's client on which the application took the lock doesn't get it again", async () => {
    const pool = createPool({ max: 1, Client } as pg.PoolConfig);
    const key = uniqueKey();
    const earlier = await pool.connect();
    await earlier.query("select pg_advisory_lock($1)", [lockId(0, key).toString()]);
    earlier.release();
    await using locker = createLocker({ pool });
    await expect(locker.withTransaction(key, never)).rejects.toMatchObject({ reason: "held" });
    const waiting = locker.withTransaction(key, never, { wait: "300ms" });
    await expect(waiting).rejects.toMatchObject({ reason: "wait-timeout" });
    await pool.query("select pg_advisory_unlock_all()");
  });
});

describe("a transaction of the locker's own", () => {
  test.skipIf(isOverPostgresJs)(
    "commits nothing, and says so, if the function gives its client back",
    async () => {
      const pool = createPool({ max: 1 });
      await using locker = createLocker({ pool });
      const running = locker.withTransaction(uniqueKey(), async (client: pg.PoolClient) => {
        await client.query(write, ["mine"]);
        client.release();
      });
      await expect(running).rejects.toThrow("don't release it");
      expect(await written()).toEqual([]);
      // The next caller gets the client as it was.
      const next = await pool.connect();
      next.release();
      await locker.withTransaction(uniqueKey(), () => {});
    },
  );

  test.skipIf(isOverPostgresJs)(
    "gives its client to the next in the pool's queue, with a release that works",
    async () => {
      const pool = createPool({ max: 1 });
      await using locker = createLocker({ pool });
      for (const end of ["commit", "roll back"]) {
        const running = locker.withTransaction(uniqueKey(), async () => {
          const next = pool.connect();
          await until(() => pool.waitingCount === 1);
          if (end === "roll back") throw Object.assign(new Error("roll back"), { next });
          return { next };
        });
        const { next } = await running.catch((error) => error);
        const client: pg.PoolClient = await next;
        await running.catch(() => {});
        client.release();
        expect(pool.idleCount).toBe(1);
      }
    },
  );

  test("a savepoint of the function's own, and a rollback to it, change nothing", async () => {
    await using locker = createLocker();
    await locker.withTransaction(uniqueKey(), async (client) => {
      await client.query(write, ["kept"]);
      await client.query("savepoint a");
      await client.query(write, ["not kept"]);
      await client.query("rollback to savepoint a");
    });
    expect(await written()).toEqual(["kept"]);
  });

  test("its client takes no second lock of the same key, except a shared one", async () => {
    await using locker = createLocker();
    const key = uniqueKey();
    await locker.withTransaction(key, async (client: pg.PoolClient) => {
      for (const options of [{ client }, { client, mode: "shared" }, { client, wait: "5s" }] as const) {
        await expect(locker.withTransaction(key, never, options)).rejects.toMatchObject({ reason: "held" });
      }
      await client.query(write, ["kept"]);
      await locker.withTransaction(uniqueKey(), (tx) => tx.query(write, ["under another"]), { client });
    });
    expect(await written()).toEqual(["kept", "under another"]);
    const shared = { mode: "shared" } as const;
    await locker.withTransaction(
      key,
      async (client: pg.PoolClient) => {
        expect(await locker.withTransaction(key, () => "both read", { client, ...shared })).toBe("both read");
        await expect(locker.withTransaction(key, never, { client })).rejects.toMatchObject({
          reason: "held",
        });
      },
      shared,
    );
  });
});

describe("a client of the caller's", () => {
  test("runs one of several simultaneous calls, and refuses the others", async () => {
    await using locker = createLocker();
    const client = await connect();
    const key = uniqueKey();
    await client.query("begin");
    let inside = 0;
    let most = 0;
    const work = async () => {
      inside += 1;
      most = Math.max(most, inside);
      await delay(20);
      inside -= 1;
    };
    for (const options of [{ client }, { client, wait: "5s" }] as const) {
      const all = await Promise.allSettled([1, 2, 3].map(() => locker.withTransaction(key, work, options)));
      const refused = all.flatMap((each) => (each.status === "rejected" ? [each.reason] : []));
      expect(refused).toHaveLength(2);
      for (const each of refused) expect(each).toMatchObject(alreadyHas);
      expect(most).toBe(1);
      await client.query("rollback; begin");
    }
    await client.query("commit");
  });

  test("two waiting calls for two keys both get their turn, and keep the settings", async () => {
    await using locker = createLocker();
    await using elsewhere = createLocker();
    const client = await connect();
    const [one, two] = [await elsewhere.acquire(uniqueKey()), await elsewhere.acquire(uniqueKey())];
    await client.query("begin; set local lock_timeout = '1234ms'; set local statement_timeout = '54321ms'");
    const both = [one, two].map(({ key }) => locker.withTransaction(key, () => key, { client, wait: "10s" }));
    await until(async () => (await advisoryLocks()).some(({ granted }) => !granted));
    await two.release();
    await one.release();
    expect(await Promise.all(both)).toEqual([one.key, two.key]);
    const { rows } = await client.query(
      "select current_setting('lock_timeout') as lock, current_setting('statement_timeout') as statement",
    );
    expect(rows).toEqual([{ lock: "1234ms", statement: "54321ms" }]);
    await client.query("commit");
  });

  test.each<readonly [string, (client: Session, id: string) => Promise<unknown>]>([
    ["by the transaction", (client, id) => client.query("select pg_advisory_xact_lock($1)", [id])],
    [
      "shared, by the transaction",
      (client, id) => client.query("select pg_advisory_xact_lock_shared($1)", [id]),
    ],
    ["by its session", (client, id) => client.query("select pg_advisory_lock($1)", [id])],
  ])("a lock that is held already, %s, is not taken once more", async (_, takes) => {
    await using locker = createLocker();
    const client = await connect();
    const key = uniqueKey();
    await client.query("begin");
    await takes(client, lockId(0, key).toString());
    for (const options of [{ client }, { client, wait: true }] as const) {
      await expect(locker.withTransaction(key, never, options)).rejects.toMatchObject(alreadyHas);
    }
    await client.query(write, ["one"]);
    await client.query("commit");
    await client.query("select pg_advisory_unlock_all()");
    expect(await written()).toEqual(["one"]);
  });

  test("keeps the lock after the function until its own end, and isn't asked again", async () => {
    await using locker = createLocker();
    const client = await connect();
    const key = uniqueKey();
    await client.query("begin");
    await locker.withTransaction(key, () => {}, { client });
    await expect(locker.withTransaction(key, never, { client })).rejects.toMatchObject(alreadyHas);
    await client.query("commit; begin");
    await locker.withTransaction(key, () => {}, { client });
    await client.query("commit");
  });

  test.each<readonly [string, (client: Session) => Promise<unknown>]>([
    ["commit", (client) => client.query("commit")],
    ["rollback", (client) => client.query("rollback")],
    ["commit; begin", (client) => client.query("commit; begin")],
    [
      "rollback; begin; insert",
      (client) => client.query("rollback; begin; insert into written values ('x')"),
    ],
    ["rollback to a savepoint from before", (client) => client.query("rollback to savepoint before")],
    ["prepare transaction", (client) => client.query("prepare transaction 'pg_locker_test'").catch(() => {})],
    ["a statement that failed", (client) => client.query("select 1/0").catch(() => {})],
  ])("is told that the lock has gone with %s in the function", async (_, ends) => {
    await using locker = createLocker();
    const client = await connect();
    const key = uniqueKey();
    await client.query("begin");
    await client.query("savepoint before");
    const running = locker.withTransaction(key, () => ends(client), { client });
    await expect(running).rejects.toBeInstanceOf(DatabaseError);
    await expect(running).rejects.toThrow(/ended the lock/);
    expect(await holdersOf(lockId(0, key))).toEqual([]);
    await client.query("rollback");
    expect(await written()).toEqual([]);
  });

  test("in a transaction that has failed: an error that says so, and it stays as it was", async () => {
    await using locker = createLocker();
    const client = await connect();
    await client.query("begin");
    await client.query("savepoint a");
    await client.query("select 1/0").catch(() => {});
    for (const options of [{ client }, { client, wait: true }] as const) {
      const running = locker.withTransaction(uniqueKey(), never, options);
      await expect(running).rejects.toMatchObject({ name: "DatabaseError", sqlState: "25P02" });
    }
    await client.query("rollback to savepoint a");
    await client.query(write, ["one"]);
    await client.query("commit");
    expect(await written()).toEqual(["one"]);
  });

  test("that is in no transaction is refused at once, even if the call would wait", async () => {
    await using locker = createLocker();
    await using lock = await locker.acquire(uniqueKey());
    const pool = createPool({ max: 3 });
    for (const client of [await connect(), pool as unknown as pg.Client]) {
      for (const wait of [0, true] as const) {
        for (const key of [lock.key, uniqueKey()]) {
          const running = locker.withTransaction(key, never, { client, wait });
          await expect(running).rejects.toBeInstanceOf(InvalidConfigError);
          await expect(running).rejects.toThrow("Expected `client` to be a client with a transaction begun");
        }
      }
    }
    expect(await holdersOf(lock.id)).toHaveLength(1);
  });

  test("that was given back to its pool isn't relied on for the lock that it had", async () => {
    const pool = createPool({ max: 1 });
    await using locker = createLocker();
    const client = await pool.connect();
    await client.query("begin");
    const running = locker.withTransaction(
      uniqueKey(),
      async () => {
        await client.query("commit");
        client.release();
        const next = await pool.connect();
        await next.query("begin");
        await next.query(write, ["another's"]);
        setTimeout(() => void next.query("commit").then(() => next.release()), 50);
      },
      { client },
    );
    await expect(running).rejects.toThrow(/ended the lock/);
    await until(async () => (await written()).length === 1);
    const given = await pool.connect();
    await given.query("begin");
    given.release(true);
    await expect(locker.withTransaction(uniqueKey(), never, { client: given })).rejects.toBeInstanceOf(
      DatabaseError,
    );
  });

  test("whose connection has ended: an error, and nothing hangs", async () => {
    await using locker = createLocker();
    const client = await connect();
    await client.query("begin");
    const running = locker.withTransaction(
      uniqueKey(),
      async () => {
        await onServer("select pg_terminate_backend($1)", [client.processID]);
        await until(async () => (await advisoryLocks()).length === 0);
      },
      { client },
    );
    await expect(running).rejects.toBeInstanceOf(DatabaseError);
    await expect(locker.withTransaction(uniqueKey(), never, { client })).rejects.toBeInstanceOf(
      DatabaseError,
    );
  });
});

describe("calls that meet on one client", () => {
  test("run their functions one by one, and a refusal undoes no write of another", async () => {
    await using locker = createLocker();
    await using elsewhere = createLocker();
    const client = await connect();
    await client.query("create table if not exists meeting (who text)");
    await using held = await elsewhere.acquire(uniqueKey());
    const key = uniqueKey();
    await client.query("begin");
    let inside = 0;
    const write =
      (who: string) => async (own: { query(text: string, values: unknown[]): Promise<unknown> }) => {
        inside += 1;
        expect(inside).toBe(1);
        for (let i = 0; i < 5; i += 1) await own.query("insert into meeting values ($1)", [who]);
        inside -= 1;
      };
    const outcomes = await Promise.allSettled([
      locker.withTransaction(key, write("first"), { client }),
      locker.withTransaction(held.key, write("refused"), { client }),
      locker.withTransaction(key, write("again"), { client }),
      locker.withTransaction(uniqueKey(), write("second"), { client }),
    ]);
    await client.query("commit");
    expect(outcomes.map(({ status }) => status)).toEqual(["fulfilled", "rejected", "rejected", "fulfilled"]);
    const { rows } = await client.query("select who, count(*)::int from meeting group by who order by who");
    expect(rows).toEqual([
      { who: "first", count: 5 },
      { who: "second", count: 5 },
    ]);
    await client.query("drop table meeting");
  });

  test("may be nested", async () => {
    await using locker = createLocker();
    const client = await connect();
    await client.query("begin");
    const inner = await locker.withTransaction(
      uniqueKey(),
      () => locker.withTransaction(uniqueKey(), () => "inner", { client }),
      { client },
    );
    expect(inner).toBe("inner");
    await client.query("commit");
  });
});
