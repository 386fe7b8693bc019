import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { MemoryLocker } from "../../src/index.ts";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { Child } from "../support/child.ts";
import { advisoryLocks, createPool, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { startServer } from "../support/start-server.ts";

// Very many callers at once. The limits are generous, because the machine may be busy; what they rule out took ten times as long.

let server: PostgresServer;

beforeAll(async () => {
  server = await startServer({ settings: { max_locks_per_transaction: 2_000 } });
}, 60_000);
afterAll(async () => {
  await server[Symbol.asyncDispose]();
});

/** Times in milliseconds. */
interface Measured {
  /** The calls themselves, which the caller could spread over time. */
  readonly calling: number;
  readonly took: number;
  /** The longest block of the event loop. */
  readonly longest: number;
}

interface Told {
  readonly held: number;
  readonly acquired: Measured;
  readonly released: Measured;
}

async function atOnce(...args: string[]): Promise<Told> {
  await using child = Child.start("many-at-once.mjs", { args, env: { DATABASE_URL: server.url } });
  return (await child.message((message) => "held" in message, { deadline: 110_000 })) as unknown as Told;
}

test("100,000 locks at once block the event loop by the calls alone", async () => {
  const { held, acquired, released } = await atOnce("100000");
  expect(held).toBe(100_000);
  for (const { calling, longest } of [acquired, released])
    expect(longest).toBeLessThan(1.5 * calling + 1_500);
}, 120_000);

test("30,000 callers on one signal cost about as much for each as 3,000 do", async () => {
  const [few, many] = [await atOnce("3000", "signal"), await atOnce("30000", "signal")];
  expect(many.held).toBe(30_000);
  // Ten times as many callers: the time used to be a hundred times as long.
  expect(many.acquired.calling).toBeLessThan(30 * Math.max(few.acquired.calling, 50));
}, 120_000);

describe("acquireAll of 500 keys", () => {
  const keys = (): string[] => Array.from({ length: 500 }, () => uniqueKey());

  /** A pool, and the number of statements that its clients were given. */
  function countingPool(): { pool: ReturnType<typeof createPool>; count(): number } {
    let statements = 0;
    const pool = createPool();
    pool.on("connect", (client) => {
      const { query } = client;
      (client as { query: unknown }).query = function (this: unknown, ...args: unknown[]): unknown {
        statements += 1;
        return Reflect.apply(query, this, args);
      };
    });
    return { pool, count: () => statements };
  }

  test("takes far fewer statements than there are keys, and so does its release", async () => {
    const { pool, count } = countingPool();
    await using locker = createLocker({ pool });
    await (await locker.acquire(uniqueKey())).release();
    const before = count();
    const group = await locker.acquireAll(keys());
    const taken = count();
    expect(taken - before).toBeLessThan(20);
    expect(await advisoryLocks()).toHaveLength(500);
    await group.release();
    expect(count() - taken).toBeLessThan(20);
  });

  test("with one held elsewhere is refused, keeps nothing, and asks in batches", async () => {
    const { pool, count } = countingPool();
    await using locker = createLocker({ pool });
    await using other = createLocker();
    const wanted = keys();
    const theirs = await other.acquire(wanted[250] as string);
    await (await locker.acquire(uniqueKey())).release();
    await expect(locker.acquireAll(wanted)).rejects.toMatchObject({ reason: "held", key: theirs.key });
    expect(await advisoryLocks()).toHaveLength(1);
    const waiting = locker.acquireAll(wanted, { wait: "20s" });
    const before = count();
    await theirs.release();
    const group = await waiting;
    expect(count() - before).toBeLessThan(40);
    expect(group.held).toBe(true);
    await group.release();
  });

  test("refuses a list of no keys", async () => {
    await using locker = createLocker();
    await expect(locker.acquireAll([])).rejects.toMatchObject({ name: "InvalidConfigError" });
  });
});

describe("acquireAll of overlapping keys, without a wait", () => {
  test.each([
    ["shared", 100, 30],
    ["dedicated", 40, 8],
  ] as const)(
    "of two callers that meet, one gets them all, every time: %s sessions",
    async (sessions, rounds, count) => {
      await using one = createLocker({ sessions });
      await using two = createLocker({ sessions });
      await Promise.all([one, two].map(async (locker) => (await locker.acquire(uniqueKey())).release()));
      const neither: number[] = [];
      for (let round = 0; round < rounds; round += 1) {
        const keys = Array.from({ length: count }, (_, at) => `${round}:${at}`);
        const outcomes = await Promise.allSettled([
          one.acquireAll(keys),
          two.acquireAll([...keys].reverse()),
        ]);
        const groups = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
        if (groups.length === 0) neither.push(round);
        expect(groups.length).toBeLessThanOrEqual(1);
        for (const group of groups) {
          expect(group.held).toBe(true);
          await group.release();
        }
      }
      expect(neither).toEqual([]);
      expect(await advisoryLocks()).toEqual([]);
    },
  );

  test("of two callers of one locker that meet, one gets them all, too", async () => {
    await using locker = createLocker();
    for (let round = 0; round < 40; round += 1) {
      const keys = Array.from({ length: 20 }, (_, at) => `${round}:${at}`);
      const outcomes = await Promise.allSettled([
        locker.acquireAll(keys.slice(0, 15)),
        locker.acquireAll(keys.slice(5)),
      ]);
      const groups = outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
      expect(groups).toHaveLength(1);
      await groups[0]?.release();
    }
    expect(await advisoryLocks()).toEqual([]);
  });
});

test("acquireAll of more keys than a call has room for gets and gives back all", async () => {
  await using locker = new MemoryLocker();
  const keys = Array.from({ length: 130_000 }, (_, at) => `key ${at}`);
  const group = await locker.acquireAll(keys);
  expect([group.held, group.remaining > 0, locker.stats().locks]).toEqual([true, true, keys.length]);
  expect(group.locks.every((lock, at) => lock.key === keys[at])).toBe(true);
  await group.release();
  expect(locker.stats().locks).toBe(0);
});
