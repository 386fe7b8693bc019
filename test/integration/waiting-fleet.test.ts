import { afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import type { AcquireOptions, PostgresLocker } from "../../src/index.ts";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import { WaitingServer } from "../support/bounded-wait.ts";
import { Child } from "../support/child.ts";
import { Fleet, HeldByHand } from "../support/fleet.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// A hundred lockers, each as if in a process of its own, that wait for one lock: the order, what they ask of the server, and how they get
// through its restart, its crash and its failover.

const size = 100;
/** Milliseconds of one wait in the server. */
const waitBound = 5_000;
// Generous, because the machine may be busy.
vi.setConfig({ testTimeout: 60_000 });

let server: WaitingServer;

beforeAll(async () => {
  server = await WaitingServer.start({
    max_connections: 450,
    shared_preload_libraries: "pg_stat_statements",
  });
  return () => server[Symbol.asyncDispose]();
});
afterEach(() => server.nothingLeft());

/** Every locker of a fleet waits for the lock, one after another; each notes in `order` when it got it. */
async function line(
  fleet: Fleet,
  held: HeldByHand,
  options: AcquireOptions = { wait: true },
): Promise<{ order: number[]; all: Promise<unknown> }> {
  const order: number[] = [];
  const waits: Promise<void>[] = [];
  for (const [number, locker] of fleet.lockers.entries()) {
    const wait = locker.acquire(held.key, options).then(async (lock) => {
      order.push(number);
      await lock.release();
    });
    wait.catch(() => {}); // Until all are awaited.
    waits.push(wait);
    await until(async () => (await server.pidsOf(held.id, "waiting")).length >= number + 1, {
      interval: 1,
      what: `waiter ${number} in the server`,
    });
  }
  return { order, all: Promise.all(waits) };
}

describe("a hundred lockers that wait for one key", () => {
  test("wait on a session each, ask little, and get it in turn with few statements", async () => {
    await using fleet = await Fleet.start(size, server.url, {
      poolConfig: { max: 1, idleTimeoutMillis: 50 },
    });
    await using held = await HeldByHand.on(server);
    const { order, all } = await line(fleet, held);
    // A session for each waiter, and the holder's.
    const clients =
      "select from pg_stat_activity where backend_type = 'client backend' and application_name <> 'test-admin'";
    await until(async () => (await server.rows(clients)).length <= size + 5, { deadline: 8_000 });
    const [before, start] = [await server.statements(), performance.now()];
    await until(() => performance.now() - start > 2_000);
    const perSecond = ((await server.statements()) - before) / ((performance.now() - start) / 1_000);
    expect(perSecond).toBeLessThan(100);
    expect(order).toEqual([]);
    const released = await server.statements();
    await held.release();
    await all;
    expect(((await server.statements()) - released) / size).toBeLessThan(10);
    expect(order).toHaveLength(size);
  }, 60_000);

  test("get it in order of arrival", async () => {
    await using fleet = await Fleet.start(20, server.url);
    // A waiter whose bound passes goes behind the others again: if the machine takes longer than that for all of it, the order says
    // nothing.
    for (let took = waitBound; took >= waitBound; ) {
      await using held = await HeldByHand.on(server);
      const start = performance.now();
      const { order, all } = await line(fleet, held);
      await held.release();
      await all;
      took = performance.now() - start;
      if (took < waitBound) expect(order).toEqual(fleet.lockers.map((_, number) => number));
    }
  }, 60_000);

  test("get it after their holder's process is killed", async () => {
    await using fleet = await Fleet.start(30, server.url);
    const held = await HeldByHand.on(server);
    // The process that holds the lock is before them in the queue.
    await using child = Child.start("wait.mjs", { args: [held.key], env: { DATABASE_URL: server.url } });
    await child.message((message) => message["started"] !== undefined);
    const [pid] = await server.waiters(held.id, 1);
    await held.release();
    await child.message((message) => message["acquired"] === true);
    expect(await server.pidsOf(held.id, "granted")).toEqual([pid]);
    const { order, all } = await line(fleet, held);
    child.signal("SIGKILL");
    await all;
    expect(order).toHaveLength(30);
    await held.session.end();
  }, 40_000);

  test("are all told when their time has passed, and nobody blocks in the server", async () => {
    await using fleet = await Fleet.start(30, server.url);
    await using held = await HeldByHand.on(server);
    const waits = await Promise.allSettled(
      fleet.lockers.map((locker) => locker.acquire(held.key, { wait: "1s" })),
    );
    for (const wait of waits) expect(wait).toMatchObject({ reason: { reason: "wait-timeout" } });
    await until(async () => (await server.pidsOf(held.id, "waiting")).length === 0, { deadline: 1_000 });
  }, 40_000);

  test.each(["fast", "immediate"] as const)(
    "wait through a restart of the server (%s), and all get it in the end",
    async (mode) => {
      await using fleet = await Fleet.start(size, server.url);
      await using held = await HeldByHand.on(server);
      const { order, all } = await line(fleet, held);
      const { key } = held;
      await server.server.stop({ mode });
      expect(order).toEqual([]);
      await server.server.resume();
      // They get the locks that the restart freed, one at a time.
      await all;
      expect([...order].sort((a, b) => a - b)).toEqual(fleet.lockers.map((_, number) => number));
      await (await fleet.first.acquire(key)).release();
    },
    90_000,
  );
});

describe("a failover", () => {
  let primary: WaitingServer;
  let standby: PostgresServer;
  beforeAll(async () => {
    primary = await WaitingServer.start({ max_connections: 250 });
    standby = await primary.server.standby();
    return async () => {
      await standby[Symbol.asyncDispose]();
      await primary[Symbol.asyncDispose]();
    };
  });

  test("ends no wait: those led to the standby go on, and get the lock after it", async () => {
    await using proxy = await TcpProxy.start(primary.url);
    await using fleet = await Fleet.start(50, proxy.url);
    await using held = await HeldByHand.on(primary);
    let got = 0;
    let failed: unknown;
    const waits = fleet.lockers.map((locker: PostgresLocker) =>
      locker.acquire(held.key, { wait: true }).then(
        async (lock) => {
          got += 1;
          await lock.release();
        },
        (error: unknown) => {
          failed ??= error;
        },
      ),
    );
    await primary.waiters(held.id, 50);
    await primary.server.kill();
    proxy.cut();
    proxy.retarget(standby.url);
    // As many connections as it takes until the standby has refused some.
    await until(() => proxy.size > 0 || failed !== undefined, { deadline: 10_000 });
    const start = performance.now();
    await until(() => performance.now() - start > 500 || failed !== undefined);
    expect([got, failed]).toEqual([0, undefined]);
    await standby.promote();
    await Promise.all(waits);
    expect([got, failed]).toEqual([50, undefined]);
  }, 60_000);
});

// Real processes, each with its own event loop, its own sockets, and an end that nobody catches.
describe("a process that waits", () => {
  test("has its turn, releases, and ends by itself", async () => {
    await using held = await HeldByHand.on(server);
    await using child = Child.start("wait.mjs", { args: [held.key], env: { DATABASE_URL: server.url } });
    await server.waiters(held.id, 1);
    await held.release();
    await child.message((message) => message["acquired"] === true);
    child.send({ go: true });
    expect(await child.exited).toEqual({ code: 0, signal: null });
    expect(child.messages.at(-1)).toEqual({ released: true });
  });

  test("and is killed doesn't keep the waiters behind it from having their turn", async () => {
    await using held = await HeldByHand.on(server);
    await using child = Child.start("wait.mjs", { args: [held.key], env: { DATABASE_URL: server.url } });
    const [pid] = await server.waiters(held.id, 1);
    await using fleet = await Fleet.start(1, server.url);
    const next = fleet.first.acquire(held.key, { wait: true });
    await server.waiters(held.id, 2);
    child.signal("SIGKILL");
    await child.exited;
    await held.release();
    const lock = await next;
    expect(await server.pidsOf(held.id, "granted")).not.toContain(pid);
    await lock.release();
    await until(async () => (await server.sessions()).every((session) => session.pid !== pid));
  });

  test("and is killed in a queue that doesn't move is gone from it within about a bound", async () => {
    await using held = await HeldByHand.on(server);
    await using child = Child.start("wait.mjs", { args: [held.key], env: { DATABASE_URL: server.url } });
    await server.waiters(held.id, 1);
    child.signal("SIGKILL");
    await child.exited;
    await until(async () => (await server.pidsOf(held.id, "waiting")).length === 0, { deadline: 10_000 });
  });

  test("and is stopped has the lock no longer than a TTL that the server enforces", async () => {
    await using held = await HeldByHand.on(server);
    await using child = Child.start("wait.mjs", {
      args: [held.key, JSON.stringify({ ttlEnforcement: "server" }), JSON.stringify({ ttl: "1s" })],
      env: { DATABASE_URL: server.url },
    });
    await server.waiters(held.id, 1);
    await using fleet = await Fleet.start(1, server.url);
    const next = fleet.first.acquire(held.key, { wait: true });
    await server.waiters(held.id, 2);
    child.signal("SIGSTOP");
    await held.release();
    // Granted to a process that can't hear of it, and then taken away from it.
    await (await next).release();
    child.signal("SIGCONT");
  });
});
