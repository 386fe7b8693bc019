import { describe, expect, test } from "vitest";
import { LockLostError, PostgresLocker } from "../../src/index.ts";
import { Child } from "../support/child.ts";
import {
  advisoryLocks,
  connect,
  createOpenPool,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
} from "../support/database.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

// What needs a server or several processes; the rest is in the contract suite.

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test("two processes that want the same keys in opposite orders never deadlock", async () => {
    const client = await connect();
    await client.query("create table inside (key text primary key)");
    const keys = [uniqueKey(), uniqueKey(), uniqueKey()];
    const env = { DATABASE_URL: databaseUrl(), SESSIONS: sessions };
    const start = (order: string[]) => Child.start("acquire-all.mjs", { args: ["500", ...order], env });
    await using one = start(keys);
    await using two = start([...keys].reverse());
    for (const child of [one, two]) {
      await child.message(({ done }) => done === 500, { deadline: 60_000 });
      expect(await child.exited).toEqual({ code: 0, signal: null });
    }
    await client.query("drop table inside");
  }, 90_000);

  test("a lock that is lost while another is awaited ends the rest, and nothing is held", async () => {
    await using holder = new PostgresLocker({ sessions, pool: createPool() });
    const pool = createPool();
    await using locker = new PostgresLocker({ sessions, pool });
    const probes = await locker.acquireAll([uniqueKey(), uniqueKey()]);
    const [first, last] = [...probes.locks].sort((a, b) => (a.id < b.id ? -1 : 1));
    await probes.release();
    if (first === undefined || last === undefined) throw new Error("no probes");
    await using _held = await holder.acquire(last.key);
    const waiting = locker.acquireAll([last.key, first.key], { wait: true });
    waiting.catch(() => {});
    await until(async () => (await holdersOf(first.id)).length === 1);
    await until(async () => (await advisoryLocks()).some(({ granted }) => !granted));
    for (const pid of await holdersOf(first.id)) await onServer("select pg_terminate_backend($1)", [pid]);
    await expect(waiting).rejects.toBeInstanceOf(LockLostError);
    await until(() => pool.idleCount === pool.totalCount);
    await until(async () => {
      const left = (await advisoryLocks()).map(({ id }) => id);
      return left.length === 1 && left[0] === last.id;
    });
  });
});

test("more keys than the pool has connections are refused, and nothing stays held", async () => {
  const pool = await createOpenPool({ max: 2 });
  await using locker = new PostgresLocker({ sessions: "dedicated", pool, connWaitTimeout: "100ms" });
  const keys = [uniqueKey(), uniqueKey(), uniqueKey()];
  await expect(locker.acquireAll(keys)).rejects.toMatchObject({ reason: "pool-saturated" });
  expect(pool.idleCount).toBe(2);
  expect(await advisoryLocks()).toEqual([]);
});
