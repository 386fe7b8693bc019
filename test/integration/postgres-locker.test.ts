import type pg from "pg";
import { describe, expect, test } from "vitest";
import { LockNotAcquiredError, LockNotHeldError } from "../../src/index.ts";
import { createPool, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test("a lock is taken, excludes others, is refreshed and released", async () => {
    await using locker = createLocker({ sessions });
    const key = uniqueKey();
    const lock = await locker.acquire(key);
    expect(lock.held).toBe(true);
    await expect(locker.acquire(key)).rejects.toThrow(LockNotAcquiredError);
    expect(await locker.tryAcquire(key)).toBeUndefined();
    await lock.refresh("1m");
    expect(lock.ttl).toBe(60_000);
    await lock.release();
    expect(lock.held).toBe(false);
    await expect(lock.release()).rejects.toThrow(LockNotHeldError);
    await (await locker.acquire(key)).release();
  });

  test("a session is returned with the settings it had", async () => {
    const pool = createPool({ max: 2 });
    await pool.query(
      "set idle_session_timeout = 600000; set application_name = 'mine'; set statement_timeout = 4000",
    );
    const settings = () =>
      pool
        .query(
          "select current_setting('idle_session_timeout') a, current_setting('application_name') b, current_setting('statement_timeout') c, current_setting('default_transaction_isolation') d, pg_backend_pid() as e",
        )
        .then((r) => r.rows);
    const before = await settings();
    await using locker = createLocker({ sessions, pool });
    await (await locker.acquire(uniqueKey())).release();
    await until(() => pool.idleCount === pool.totalCount);
    expect(await settings()).toEqual(before);
  });

  test.each(["discard all", "deallocate all"])(
    "a pooled connection on which somebody ran %s still carries locks",
    async (discard) => {
      const pool = createPool({ max: 2 });
      await using locker = createLocker({ sessions, pool });
      const key = uniqueKey();
      await (await locker.acquire(key)).release();
      await until(() => pool.idleCount === pool.totalCount);
      const pid = async () => (await pool.query("select pg_backend_pid() as pid")).rows;
      const before = await pid();
      await pool.query(discard);
      const lock = await locker.acquire(key);
      await lock.refresh();
      await lock.release();
      await until(() => pool.idleCount === pool.totalCount);
      expect(await pid()).toEqual(before);
    },
  );

  test("a connection with the statements prepared by an earlier client carries locks", async () => {
    const first = createPool({ max: 2 });
    const names = async (): Promise<string[]> => {
      const { rows } = await first.query("select name from pg_prepared_statements");
      return rows.map(({ name }) => name);
    };
    const shared = { mode: "shared", fencing: true } as const;
    const use = async (pool: pg.Pool): Promise<void> => {
      await using locker = createLocker({ sessions, pool });
      for (const options of [{}, shared]) {
        const lock = await locker.acquire(uniqueKey(), options);
        await lock.refresh();
        await lock.release();
      }
      await until(() => pool.idleCount === pool.totalCount);
    };
    await use(first);
    const prepared = await names();
    expect(prepared.length).toBeGreaterThanOrEqual(4);
    // As behind a pooler that resets nothing: the server knows the statements' names, and the client does not.
    const second = createPool({ max: 2 });
    const client = await second.connect();
    for (const name of prepared) await client.query(`prepare ${name} as select 'somebody else'`);
    const refused = client.query({ name: prepared[0] ?? "", text: "select 1" });
    await expect(refused).rejects.toMatchObject({ code: "42P05" });
    client.release();
    await use(second);
    expect(second.totalCount).toBe(1);
  });

  test("a role's serializable default changes nothing", async () => {
    const pool = createPool({ max: 2 });
    await pool.query(
      "set default_transaction_isolation = serializable; set default_transaction_read_only = on",
    );
    await using locker = createLocker({ sessions, pool });
    const lock = await locker.acquire(uniqueKey());
    await lock.refresh();
    await lock.release();
    await until(() => pool.idleCount === pool.totalCount);
    const { rows } = await pool.query("select current_setting('default_transaction_isolation') as isolation");
    expect(rows).toEqual([{ isolation: "serializable" }]);
  });
});
