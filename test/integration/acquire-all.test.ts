import { describe, expect, test } from "vitest";
import { LockLostError, lockId } from "../../src/index.ts";
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
import { isOverPostgresJs } from "../support/driver.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

// Tests that need a server or several processes; the rest is in the contract suite.

describe.each(sessionModes)("with %s sessions", (sessions) => {
  // The test's program uses node-postgres.
  test.skipIf(isOverPostgresJs)(
    "two processes that want the same keys in opposite orders never deadlock",
    async () => {
      const client = await connect();
      await client.query("drop table if exists inside; create table inside (key text primary key)");
      const keys = [uniqueKey(), uniqueKey(), uniqueKey()];
      const env = { DATABASE_URL: databaseUrl(), SESSIONS: sessions };
      const start = (order: string[]) => Child.start("acquire-all.mjs", { args: ["200", ...order], env });
      await using one = start(keys);
      await using two = start([...keys].reverse());
      for (const child of [one, two]) {
        await child.message(({ done }) => done === 200, { deadline: 60_000 });
        expect(await child.exited).toEqual({ code: 0, signal: null });
      }
      await client.query("drop table inside");
    },
    90_000,
  );

  test("a lock lost while another is awaited ends the acquire, and nothing is held", async () => {
    await using holder = createLocker({ sessions });
    const pool = createPool();
    await using locker = createLocker({ sessions, pool });
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

test.skipIf(isOverPostgresJs)(
  "more keys than the pool has connections are refused, and nothing stays held",
  async () => {
    const pool = await createOpenPool({ max: 2 });
    await using locker = createLocker({ sessions: "dedicated", pool, connWaitTimeout: "100ms" });
    const keys = [uniqueKey(), uniqueKey(), uniqueKey()];
    await expect(locker.acquireAll(keys)).rejects.toMatchObject({ reason: "pool-saturated" });
    expect(pool.idleCount).toBe(2);
    expect(await advisoryLocks()).toEqual([]);
  },
);

/** Two keys in the order in which their locks are taken: the smaller lock id first. */
function keysInOrder(): [string, string] {
  const keys: [string, string] = [uniqueKey(), uniqueKey()];
  return lockId(0, keys[0]) < lockId(0, keys[1]) ? keys : [keys[1], keys[0]];
}

test.skipIf(isOverPostgresJs)(
  "if a lock is lost before the next one is granted, that one isn't kept either",
  async () => {
    const pool = await createOpenPool({ max: 2 });
    await using locker = createLocker({ sessions: "dedicated", pool, connWaitTimeout: "10s" });
    // The proof that the server keeps locks is done.
    await (await locker.acquire(uniqueKey())).release();
    const keys = keysInOrder();
    const taken = await pool.connect();
    const group = locker.acquireAll(keys);
    group.catch(() => {});
    const first = lockId(0, keys[0]);
    await until(async () => (await holdersOf(first)).length === 1);
    for (const pid of await holdersOf(first)) await onServer("select pg_terminate_backend($1)", [pid]);
    await until(async () => pool.totalCount < 2 || (await holdersOf(first)).length === 0);
    // Its place in the pool may be taken at once: then this acquire is one too many, and both are granted.
    taken.release();
    await expect(group).rejects.toBeInstanceOf(LockLostError);
    await until(async () => (await advisoryLocks()).length === 0);
    await until(() => pool.idleCount === pool.totalCount);
  },
);

test("a lock that expires while another is refused doesn't hide the refusal", async () => {
  const pool = await createOpenPool({ max: 4 });
  const refusals: string[] = [];
  const nothing = (): void => {};
  const logger = {
    info: nothing,
    warn: nothing,
    error: nothing,
    debug(facts: object, message: string): void {
      if (message !== "acquire: held") return;
      // The first lock is granted by now, and expires before anybody can look at it.
      if (refusals.length === 0) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_100);
      refusals.push((facts as { key: string }).key);
    },
  };
  await using locker = createLocker({ sessions: "dedicated", pool, logger });
  await using other = createLocker();
  const [first, last] = keysInOrder();
  await using _held = await other.acquire(last);
  await (await locker.acquire(uniqueKey())).release();
  await expect(locker.acquireAll([first, last], { ttl: "1s" })).rejects.toMatchObject({
    name: "LockNotAcquiredError",
    key: last,
    reason: "held",
  });
  expect(refusals.every((key) => key === last)).toBe(true);
  await until(async () => (await holdersOf(lockId(0, first))).length === 0);
});
