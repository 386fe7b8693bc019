import { monitorEventLoopDelay } from "node:perf_hooks";
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { InvalidConfigError, type Lock, lockId } from "../../src/index.ts";
import { WaitingServer } from "../support/bounded-wait.ts";
import { createPool, uniqueKey } from "../support/database.ts";
import { Fleet, HeldByHand } from "../support/fleet.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

// On how many sessions a locker waits in the server, and what happens to the waiters beyond that number.

// Generous, because the machine may be busy.
vi.setConfig({ testTimeout: 60_000 });

let server: WaitingServer;

beforeAll(async () => {
  server = await WaitingServer.start({
    max_connections: 60,
    max_locks_per_transaction: 600,
    shared_preload_libraries: "pg_stat_statements",
  });
  return () => server[Symbol.asyncDispose]();
});
beforeEach(() => server.log.mark());
afterEach(async () => {
  await server.nothingLeft();
  expect(await server.log.complaints()).toEqual([]);
});

const one = (options: { maxWaitingSessions?: number } = {}) => Fleet.start(1, server.url, options);
const holding = (count: number) => Promise.all(Array.from({ length: count }, () => HeldByHand.on(server)));

/** Returns which of the locks are waited for in the server. */
async function waitedFor(held: readonly HeldByHand[]): Promise<number[]> {
  const waiting = await Promise.all(held.map(({ id }) => server.pidsOf(id, "waiting")));
  return waiting.flatMap((pids, number) => (pids.length > 0 ? [number] : []));
}

describe("maxWaitingSessions", () => {
  test.each([0, -1, 1.5, Number.NaN, Number.POSITIVE_INFINITY, "4", null])("can't be %s", (got) => {
    const options = { pool: createPool({ connectionString: server.url }), maxWaitingSessions: got };
    const make = () => createLocker(options as unknown as { pool: never });
    expect(make).toThrow(InvalidConfigError);
    expect(make).toThrow(/`maxWaitingSessions`.*whole number/);
  });

  test("is 4 by default: of six keys, the first four are waited for in the server", async () => {
    await using fleet = await one();
    const held = await holding(6);
    const waits = [];
    for (const [number, { key }] of held.entries()) {
      waits.push(fleet.first.acquire(key, { wait: true }).then((lock) => lock.release()));
      await until(async () => (await waitedFor(held)).length === Math.min(number + 1, 4));
    }
    expect(await waitedFor(held)).toEqual([0, 1, 2, 3]);
    expect((await server.sessions("waits")).length).toBeLessThanOrEqual(4);
    await Promise.all(held.map((each) => each.release()));
    await Promise.all(waits);
  });

  test("lets waiters beyond it move up as places become free, the oldest first", async () => {
    await using fleet = await one({ maxWaitingSessions: 2 });
    const held = await holding(5);
    const waits: Promise<void>[] = [];
    for (const [number, { key }] of held.entries()) {
      waits.push(fleet.first.acquire(key, { wait: true }).then((lock) => lock.release()));
      if (number < 2) await until(async () => (await waitedFor(held)).length === number + 1);
    }
    for (const [number, each] of held.entries()) {
      const next = [number, number + 1].filter((at) => at < held.length);
      await until(async () => String(await waitedFor(held)) === String(next));
      await each.release();
      await waits[number];
    }
  });

  test("lets a waiter beyond it get a lock as soon as it is free, without a place", async () => {
    await using fleet = await one({ maxWaitingSessions: 1 });
    const [first, second, third] = (await holding(3)) as [HeldByHand, HeldByHand, HeldByHand];
    const waits = [first, second, third].map(({ key }) => fleet.first.acquire(key, { wait: true }));
    await until(async () => (await waitedFor([first, second, third])).length === 1);
    for (const [number, each] of [second, third].entries()) {
      await each.release();
      const lock = (await waits[number + 1]) as Lock;
      expect(lock.held).toBe(true);
      await lock.release();
    }
    expect(await waitedFor([first, second, third])).toEqual([0]);
    await first.release();
    await (await waits[0])?.release();
  });

  test("counts a lock that was waited for, until it is released", async () => {
    await using fleet = await one({ maxWaitingSessions: 1 });
    const [first, second] = (await holding(2)) as [HeldByHand, HeldByHand];
    const waiting = fleet.first.acquire(first.key, { wait: true, autoRefresh: true });
    await server.waiters(first.id, 1);
    await first.release();
    const lock = await waiting;
    const then = fleet.first.acquire(second.key, { wait: true });
    // Enough time to get there, several times over: in that time, it only sends tries.
    const before = await server.statements();
    await until(async () => (await server.statements()) >= before + 3, { deadline: 10_000 });
    expect(await server.pidsOf(second.id, "waiting")).toEqual([]);
    await lock.release();
    await server.waiters(second.id, 1);
    await second.release();
    await (await then).release();
  });

  test("lets a bound and an abort end a wait beyond it, too", async () => {
    await using fleet = await one({ maxWaitingSessions: 1 });
    const [first, second, third] = (await holding(3)) as [HeldByHand, HeldByHand, HeldByHand];
    const aborting = new AbortController();
    const waits = Promise.allSettled([
      fleet.first.acquire(first.key, { wait: "1s" }),
      fleet.first.acquire(second.key, { wait: "1s" }),
      fleet.first.acquire(third.key, { wait: true, signal: aborting.signal }),
    ]);
    await until(async () => (await waitedFor([first, second, third])).length === 1);
    aborting.abort(new Error("enough"));
    expect(await waits).toMatchObject([
      { reason: { reason: "wait-timeout" } },
      { reason: { reason: "wait-timeout" } },
      { reason: { message: "enough" } },
    ]);
  });
});

/** Holds the locks of that many keys on one session of a plain client. */
async function holdMany(keys: readonly string[]) {
  const session = await server.connect();
  const ids = keys.map((key) => lockId(0, key).toString());
  await session.query("select count(pg_advisory_lock(id)) from unnest($1::bigint[]) as id", [ids]);
  return () => session.query("select pg_advisory_unlock_all()");
}

/** The longest time that the event loop was blocked while something ran, in milliseconds. */
async function longestBlock(work: () => Promise<unknown>): Promise<number> {
  const histogram = monitorEventLoopDelay({ resolution: 10 });
  histogram.enable();
  await work();
  histogram.disable();
  return histogram.max / 1e6;
}

describe("one locker that waits", () => {
  test("for 1,500 keys asks the server little, and has each soon after it is free", async () => {
    await using fleet = await Fleet.start(1, server.url, { poolConfig: { max: 5 } });
    const keys = Array.from({ length: 1_500 }, () => uniqueKey());
    const free = await holdMany(keys);
    let got = 0;
    const waits = keys.map(async (key) => {
      const lock = await fleet.first.acquire(key, { wait: true });
      got += 1;
      await lock.release();
    });
    const all = Promise.all(waits);
    const [before, start] = [await server.statements(), performance.now()];
    // A while in which polling for each lock by itself would take thousands of statements.
    await until(() => performance.now() - start > 3_000, { deadline: 10_000 });
    expect(got).toBe(0);
    const perSecond = ((await server.statements()) - before) / ((performance.now() - start) / 1_000);
    expect(perSecond).toBeLessThan(40);
    await free();
    await all;
    expect(got).toBe(1_500);
  }, 40_000);

  test("for 20,000 keys has them all in the end, and never blocks its process for long", async () => {
    await using fleet = await Fleet.start(1, server.url, { poolConfig: { max: 5 } });
    const keys = Array.from({ length: 20_000 }, (_, number) => `many:${number}`);
    const free = await holdMany(keys);
    let got = 0;
    let freed: Promise<unknown> | undefined;
    const blocked = await longestBlock(async () => {
      const waits: Promise<void>[] = [];
      for (const key of keys) {
        waits.push(
          fleet.first.acquire(key, { wait: true }).then(async (lock) => {
            got += 1;
            await lock.release();
          }),
        );
        // As callers arrive: not all in one step.
        if (waits.length % 1_000 === 0) await new Promise(setImmediate);
      }
      const before = await server.statements();
      await until(async () => (await server.statements()) > before + 20, { deadline: 60_000 });
      expect(got).toBe(0);
      freed = free();
      await Promise.all(waits);
    });
    await freed;
    expect(got).toBe(20_000);
    expect(blocked).toBeLessThan(2_000);
  }, 120_000);

  test("with 100,000 callers for a key serves them in order, and never blocks long", async () => {
    await using fleet = await Fleet.start(1, server.url, { poolConfig: { max: 5 } });
    await using held = await HeldByHand.on(server);
    const [count, served] = [100_000, 200];
    const order: number[] = [];
    const waits: Promise<unknown>[] = [];
    const blocked = await longestBlock(async () => {
      for (let number = 0; number < count; number += 1) {
        const wait = fleet.first.acquire(held.key, { wait: true }).then(async (lock) => {
          order.push(number);
          await lock.release();
        });
        waits.push(wait.catch(() => {}));
        // As callers arrive: not all in one step.
        if (waits.length % 1_000 === 0) await new Promise(setImmediate);
      }
      await server.waiters(held.id, 1);
      await held.release();
      await until(() => order.length >= served, { deadline: 60_000 });
    });
    await fleet.first.close();
    await Promise.all(waits);
    expect(order.length).toBeGreaterThanOrEqual(served);
    expect(order).toEqual([...order].sort((a, b) => a - b));
    expect(blocked).toBeLessThan(2_000);
  }, 120_000);
});
