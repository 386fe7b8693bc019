import { getEventListeners } from "node:events";
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { LockerClosedError, LockNotAcquiredError, type PostgresLocker } from "../../src/index.ts";
import { WaitingServer } from "../support/bounded-wait.ts";
import { createPool } from "../support/database.ts";
import { Fleet, HeldByHand } from "../support/fleet.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

// However a wait ends before it gets the lock, it ends at once, in the server as well, and leaves nothing: no lock, no session, no timer,
// no listener, and no line in the server's log.

// Generous, because the machine may be busy.
vi.setConfig({ testTimeout: 60_000 });

let server: WaitingServer;

beforeAll(async () => {
  server = await WaitingServer.start({ max_connections: 60, log_connections: "on" });
  return () => server[Symbol.asyncDispose]();
});
beforeEach(() => server.log.mark());
afterEach(async () => {
  await server.nothingLeft();
  expect(await loud()).toEqual([]);
});

/** What the server has logged that an administrator would look into. */
async function loud(): Promise<string[]> {
  const entries = await server.log.entries();
  return entries
    .filter(({ severity }) => ["WARNING", "ERROR", "FATAL", "PANIC", "STATEMENT"].includes(severity))
    .map(({ pid, severity, text }) => `${pid} ${severity}: ${text}`);
}

const reason = new Error("the caller's own reason");
const locker = () => createLocker({ pool: createPool({ connectionString: server.url, max: 3 }) });
const timers = () => process.getActiveResourcesInfo().filter((name) => name === "Timeout").length;

/** The ways to wait for a lock. Each resolves when the lock was granted and released. */
const waysToWait = {
  acquire: async (one: PostgresLocker, key: string, signal: AbortSignal) =>
    void (await (await one.acquire(key, { wait: true, signal })).release()),
  "acquire in shared mode": async (one: PostgresLocker, key: string, signal: AbortSignal) =>
    void (await (await one.acquire(key, { wait: true, signal, mode: "shared" })).release()),
  acquireAll: async (one: PostgresLocker, key: string, signal: AbortSignal) =>
    void (await (await one.acquireAll([key], { wait: true, signal })).release()),
  withLock: (one: PostgresLocker, key: string, signal: AbortSignal) =>
    one.withLock(key, () => {}, { wait: true, signal }),
  withTransaction: (one: PostgresLocker, key: string, signal: AbortSignal) =>
    one.withTransaction(key, () => {}, { wait: true, signal }),
} as const;
const names = Object.keys(waysToWait) as (keyof typeof waysToWait)[];

describe.each(names)("a wait of %s", (name) => {
  const wait = waysToWait[name];

  test("that is aborted rejects with the caller's reason at once, and ends in the server", async () => {
    await using held = await HeldByHand.on(server);
    await using waiter = locker();
    const aborting = new AbortController();
    const waiting = wait(waiter, held.key, aborting.signal).catch((error: unknown) => error);
    await server.waiters(held.id, 1);
    const start = performance.now();
    aborting.abort(reason);
    expect(await waiting).toBe(reason);
    expect(performance.now() - start).toBeLessThan(1_000);
    await until(async () => (await server.pidsOf(held.id, "waiting")).length === 0, { deadline: 1_000 });
    expect(getEventListeners(aborting.signal, "abort")).toEqual([]);
  });

  test("that is aborted in the very moment of the grant releases the lock", async () => {
    await using held = await HeldByHand.on(server);
    await using waiter = locker();
    const aborting = new AbortController();
    const waiting = wait(waiter, held.key, aborting.signal).catch((error: unknown) => error);
    const [pid] = await server.waiters(held.id, 1);
    await server.whileStopped({ processID: pid as number }, async () => {
      await held.release();
      expect(await server.pidsOf(held.id, "granted")).toEqual([pid]);
      aborting.abort(reason);
      expect(await waiting).toBe(reason);
    });
    await until(async () => (await server.pidsOf(held.id, "granted")).length === 0, { deadline: 2_000 });
    await (await waiter.acquire(held.key)).release();
    // The cancel may come after the wait, to the statement that asks how it went: then the server logs a line.
    await server.log.mark();
  });
});

test("a wait whose time passes ends in the server by itself, about then", async () => {
  await using held = await HeldByHand.on(server);
  await using waiter = locker();
  let begun = Number.POSITIVE_INFINITY;
  // Of a wait that a busy machine begins late, more is left in the server when its time is up, and it is cancelled.
  while (begun > 50) {
    const start = performance.now();
    const waiting = waiter.acquire(held.key, { wait: "1100ms" }).catch((error: unknown) => error);
    await server.waiters(held.id, 1);
    begun = performance.now() - start;
    await server.log.mark();
    const error = await waiting;
    expect(error).toBeInstanceOf(LockNotAcquiredError);
    expect(error).toMatchObject({ reason: "wait-timeout" });
    expect((error as Error).cause).toBeUndefined();
    expect(performance.now() - start).toBeGreaterThan(1_080);
    expect(performance.now() - start).toBeLessThan(2_600);
    await until(async () => (await server.pidsOf(held.id, "waiting")).length === 0, { deadline: 1_000 });
  }
  // A cancellation, which takes a connection, might hit the statement after the wait.
  const logged = (await server.log.entries()).map(({ text }) => text);
  expect(logged.filter((text) => text.startsWith("connection received"))).toEqual([]);
});

test("waits of a few milliseconds, or about deadlock_timeout, end in time and quietly", async () => {
  await using held = await HeldByHand.on(server);
  await using waiter = locker();
  await (await waiter.acquire("warm")).release();
  for (const wait of [1, 5, 20, 990, 1_000, 1_010]) {
    const start = performance.now();
    await expect(waiter.acquire(held.key, { wait })).rejects.toMatchObject({ reason: "wait-timeout" });
    expect(performance.now() - start).toBeLessThan(wait + 1_000);
  }
});

test("a close ends every wait at once, those in line too", async () => {
  await using held = await HeldByHand.on(server);
  const waiter = locker();
  const waits = Promise.allSettled(
    names.map((name) => waysToWait[name](waiter, held.key, new AbortController().signal)),
  );
  await until(async () => (await server.pidsOf(held.id, "waiting")).length > 0);
  const start = performance.now();
  await waiter.close();
  for (const wait of await waits) expect(wait).toMatchObject({ reason: expect.any(LockerClosedError) });
  expect(performance.now() - start).toBeLessThan(1_000);
  await until(async () => (await server.pidsOf(held.id, "waiting")).length === 0, { deadline: 1_000 });
});

test("if the first in line is aborted, the next waits in the server, in order", async () => {
  await using held = await HeldByHand.on(server);
  await using waiter = locker();
  const order: number[] = [];
  const aborting = new AbortController();
  const waits = [0, 1, 2, 3].map(async (number) => {
    const signal = number === 0 ? aborting.signal : undefined;
    const lock = await waiter.acquire(held.key, { wait: true, ...(signal && { signal }) });
    order.push(number);
    await lock.release();
  });
  const first = expect(waits[0]).rejects.toBe(reason);
  await server.waiters(held.id, 1);
  aborting.abort(reason);
  await first;
  await server.waiters(held.id, 1);
  await held.release();
  await Promise.all(waits.slice(1));
  expect(order).toEqual([1, 2, 3]);
});

test("sessions for waits are gone soon after the last one, while the locker lives", async () => {
  await using held = await HeldByHand.on(server);
  await using waiter = locker();
  const waiting = waiter.acquire(held.key, { wait: true });
  const [pid] = await server.waiters(held.id, 1);
  await held.release();
  await (await waiting).release();
  await until(async () => (await server.sessions()).every((session) => session.pid !== pid), {
    deadline: 3_000,
  });
  expect(await server.sessions("waits")).toEqual([]);
});

test("a storm of 2,000 aborts, at whatever point, leaves nothing", async () => {
  // So that no timer belongs to the pool.
  const poolConfig = { max: 3, idleTimeoutMillis: 0 };
  await using fleet = await Fleet.start(4, server.url, { poolConfig });
  await using holder = await Fleet.start(1, server.url, { poolConfig });
  await server.nothingLeft();
  const before = timers();
  const keys = ["storm:a", "storm:b", "storm:c"];
  let stop = false;
  const handing = keys.map(async (key) => {
    while (!stop)
      await holder.first.withLock(key, () => new Promise((resolve) => setTimeout(resolve, 2)), {
        wait: true,
      });
  });
  const counts = { granted: 0, aborted: 0 };
  const inside = new Map<string, number>();
  const caller = async (number: number): Promise<void> => {
    const one = fleet.lockers[number % fleet.lockers.length] as PostgresLocker;
    for (let i = 0; i < 50; i += 1) {
      const key = keys[(number + i) % keys.length] as string;
      const aborting = new AbortController();
      const { signal } = aborting;
      // Some have as much time as they need, because otherwise nobody might be granted it on a busy machine.
      const timer = i % 10 > 0 ? setTimeout(() => aborting.abort(reason), Math.random() * 15) : undefined;
      try {
        const lock = await one.acquire(key, { wait: true, signal });
        inside.set(key, (inside.get(key) ?? 0) + 1);
        expect(inside.get(key)).toBe(1);
        await Promise.resolve();
        inside.set(key, 0);
        await lock.release();
        counts.granted += 1;
      } catch (error) {
        expect(error).toBe(reason);
        counts.aborted += 1;
      } finally {
        clearTimeout(timer);
      }
      expect(getEventListeners(signal, "abort")).toEqual([]);
    }
  };
  try {
    await Promise.all(Array.from({ length: 40 }, (_, number) => caller(number)));
  } finally {
    stop = true;
    await Promise.all(handing);
  }
  expect(counts.granted).toBeGreaterThanOrEqual(200);
  expect(counts.aborted).toBeGreaterThan(0);
  expect(counts.granted + counts.aborted).toBe(2_000);
  // Before any locker is closed.
  await server.nothingLeft();
  await until(() => timers() <= before, { what: "no timer but those before" });
  // A cancel that arrives in the microseconds before or after the block causes a line in the server's log.
  const lines = (await loud()).filter((line) => line.includes("ERROR"));
  expect(lines.filter((line) => !line.includes("canceling statement due to user request"))).toEqual([]);
  expect(lines.length).toBeLessThan(20);
  await server.log.mark();
}, 60_000);
