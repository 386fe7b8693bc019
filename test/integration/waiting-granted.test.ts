import pg from "pg";
import { afterEach, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { type Lock, LockerClosedError, type PostgresLocker } from "../../src/index.ts";
import { WaitingServer } from "../support/bounded-wait.ts";
import { createPool, uniqueKey } from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { Fleet, HeldByHand } from "../support/fleet.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

// A lock that was waited for is like any other lock, whether it was granted in the server or by a try beyond the limit.

// Generous, because the machine may be busy.
vi.setConfig({ testTimeout: 60_000 });

let server: WaitingServer;

beforeAll(async () => {
  server = await WaitingServer.start({ max_connections: 60 });
  return () => server[Symbol.asyncDispose]();
});
beforeEach(() => server.log.mark());
afterEach(() => server.nothingLeft());

/** Sleeps for some seconds of the server's clock. */
const sleep = (seconds: number) => server.rows("select pg_sleep($1)", [seconds]);

/** Waits in the server for a lock that somebody holds, and gets it when that holder releases it after that many seconds. */
async function waited(
  locker: PostgresLocker,
  options: Parameters<PostgresLocker["acquire"]>[1] = {},
  after = 0,
): Promise<Lock> {
  await using held = await HeldByHand.on(server);
  const waiting = locker.acquire(held.key, { wait: true, ...options });
  await server.waiters(held.id, 1);
  if (after > 0) await sleep(after);
  await held.release();
  return await waiting;
}

describe.each(["shared", "dedicated"] as const)("a lock that was waited for (%s sessions)", (sessions) => {
  const one = (options = {}) => Fleet.start(1, server.url, { sessions, poolConfig: { max: 3 }, ...options });

  test.each(["exclusive", "shared"] as const)(
    "is held once it is granted, and free once it is released (%s)",
    async (mode) => {
      await using fleet = await one();
      const lock = await waited(fleet.first, { mode });
      expect([lock.held, lock.mode, lock.expired, lock.signal.aborted]).toEqual([true, mode, false, false]);
      expect(await server.pidsOf(lock.id, "granted")).toHaveLength(1);
      await lock.refresh();
      await lock.release();
      expect(await server.pidsOf(lock.id, "granted")).toEqual([]);
      expect(lock.held).toBe(false);
      await expect(lock.refresh()).rejects.toMatchObject({ reason: "released" });
      expect(lock.signal.aborted).toBe(false);
      expect(await server.log.complaints()).toEqual([]);
    },
  );

  test("has all of its TTL before it, though the wait took longer than that", async () => {
    await using fleet = await one();
    const lock = await waited(fleet.first, { ttl: "400ms" }, 1);
    expect(lock.held).toBe(true);
    await until(() => lock.signal.aborted);
    expect(lock.signal.reason).toMatchObject({ code: "LOCK_EXPIRED" });
    expect(lock.held).toBe(false);
    await lock.release().catch(() => {});
  });

  test("refreshes itself for as long as it is held, if asked to", async () => {
    await using fleet = await one();
    const lock = await waited(fleet.first, { ttl: "400ms", autoRefresh: true }, 1);
    await sleep(1.2);
    expect(lock.held).toBe(true);
    await lock.release();
  });

  test("is freed by the server a TTL after its holder was heard of, if it enforces it", async () => {
    await using fleet = await one({ ttlEnforcement: "server" });
    const lock = await waited(fleet.first, { ttl: "500ms" }, 1);
    expect(lock.held).toBe(true);
    await lock.refresh("700ms");
    await until(async () => (await server.pidsOf(lock.id, "granted")).length === 0);
    expect(lock.held).toBe(false);
    await lock.release().catch(() => {});
  });

  test("has a fencing token greater than that of the holder before it, each time", async () => {
    await using fleet = await Fleet.start(3, server.url, { sessions });
    const key = uniqueKey();
    const tokens: bigint[] = [];
    const rounds = fleet.lockers.map(async (locker) => {
      for (let round = 0; round < 20; round += 1) {
        const lock = await locker.acquire(key, { wait: true, fencing: true });
        tokens.push(lock.fencingToken as bigint);
        await lock.release();
      }
    });
    await Promise.all(rounds);
    expect(tokens).toHaveLength(60);
    expect(tokens.every((token, at) => at === 0 || token > (tokens[at - 1] as bigint))).toBe(true);
  });

  test("ends with its locker, and its holder is told", async () => {
    const fleet = await one();
    const lock = await waited(fleet.first);
    await fleet.first.close();
    expect(lock.held).toBe(false);
    expect(lock.signal.reason).toMatchObject({ cause: expect.any(LockerClosedError) });
    await until(async () => (await server.pidsOf(lock.id, "granted")).length === 0);
  });

  test("isn't granted a second time to its own locker", async () => {
    await using fleet = await one();
    const lock = await waited(fleet.first);
    expect(await fleet.first.tryAcquire(lock.key)).toBeUndefined();
    const next = fleet.first.acquire(lock.key, { wait: true });
    await expect(fleet.first.acquire(lock.key, { wait: "300ms" })).rejects.toMatchObject({
      reason: "wait-timeout",
    });
    await lock.release();
    await (await next).release();
  });
});

// The event loop stands still, as in a long computation, from before the grant until long after the TTL.
test.each(["client", "server"] as const)(
  "a process blocked at the grant relies on nothing taken back (TTL by the %s)",
  async (ttlEnforcement) => {
    await using held = await HeldByHand.on(server);
    await using fleet = await Fleet.start(1, server.url, { ttlEnforcement });
    const waiting = fleet.first.acquire(held.key, { wait: true, ttl: "400ms" });
    const [pid] = await server.waiters(held.id, 1);
    const released = held.release(); // It has been passed to the system, which sends it.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1_500);
    await released;
    const lock = await waiting;
    expect(lock.held).toBe(true);
    const granted = await server.pidsOf(held.id, "granted");
    expect(granted).toHaveLength(1);
    // The server has ended the session because it was silent for longer than the TTL.
    if (ttlEnforcement === "server") expect(granted).not.toEqual([pid]);
    await lock.release();
  },
);

test("the session of a wait carries the next one, and no lock of another key", async () => {
  await using fleet = await Fleet.start(1, server.url);
  const pids = new Set<number>();
  for (let turn = 0; turn < 5; turn += 1) {
    const lock = await waited(fleet.first);
    for (const pid of await server.pidsOf(lock.id, "granted")) pids.add(pid);
    await lock.release();
  }
  expect(pids.size).toBe(1);
});

test("readers of one locker share a lock they waited for, and a writer comes after", async () => {
  await using held = await HeldByHand.on(server);
  await using fleet = await Fleet.start(1, server.url);
  let [inside, most, written] = [0, 0, 0];
  const readers = Array.from({ length: 5 }, () =>
    fleet.first.withLock(
      held.key,
      async () => {
        inside += 1;
        most = Math.max(most, inside);
        await until(() => most === 5);
        inside -= 1;
      },
      { wait: true, mode: "shared" },
    ),
  );
  await server.waiters(held.id, 1);
  const writer = fleet.first.withLock(
    held.key,
    () => {
      written = inside + 1;
    },
    { wait: true },
  );
  await held.release();
  await Promise.all([...readers, writer]);
  expect([most, written]).toEqual([5, 1]);
});

test("acquireAll waits in the server key by key, and gets all of them or none", async () => {
  await using one = await HeldByHand.on(server);
  await using two = await HeldByHand.on(server);
  await using fleet = await Fleet.start(1, server.url, { poolConfig: { max: 3 } });
  const [first, last] = [one, two].sort((a, b) => (a.id < b.id ? -1 : 1)) as [HeldByHand, HeldByHand];
  const waiting = fleet.first.acquireAll([last.key, first.key], { wait: true });
  await server.waiters(first.id, 1);
  await first.release();
  await server.waiters(last.id, 1);
  expect(await server.pidsOf(first.id, "granted")).toHaveLength(1);
  await last.release();
  const group = await waiting;
  expect(group.locks.map(({ held }) => held)).toEqual([true, true]);
  await group.release();
  await using held = await HeldByHand.on(server);
  const refused = fleet.first.acquireAll([first.key, held.key, last.key], { wait: "500ms" });
  await expect(refused).rejects.toMatchObject({ reason: "wait-timeout" });
  for (const { id } of [first, last]) expect(await server.pidsOf(id, "granted")).toEqual([]);
});

test("lockers that are closed at whatever point of a wait leave nothing", async () => {
  const key = uniqueKey();
  let stop = false;
  await using fleet = await Fleet.start(1, server.url);
  const handing = (async () => {
    while (!stop) await fleet.first.withLock(key, () => sleep(0.002), { wait: true });
  })();
  const counts = { granted: 0, closed: 0 };
  const round = async (): Promise<void> => {
    for (let times = 0; times < 15; times += 1) {
      const pool = createPool({ connectionString: server.url, max: 1, idleTimeoutMillis: 50 });
      const locker = createLocker({ pool });
      const waits = Array.from({ length: 3 }, () =>
        locker.acquire(key, { wait: true }).then(
          async (lock) => {
            counts.granted += 1;
            await lock.release().catch(() => {});
          },
          (error: unknown) => {
            expect(error).toBeInstanceOf(LockerClosedError);
            counts.closed += 1;
          },
        ),
      );
      await new Promise((resolve) => setTimeout(resolve, Math.random() * 40));
      await locker.close();
      await Promise.all(waits);
    }
  };
  await Promise.all([round(), round(), round(), round()]);
  stop = true;
  await handing;
  expect(counts.granted + counts.closed).toBe(180);
  expect(counts.closed).toBeGreaterThan(0);
  await server.nothingLeft();
});

// The driver of the other row has no client of node-postgres.
test.skipIf(isOverPostgresJs)("a session that dies with the answer that opens it ends no wait", async () => {
  let isCut = false;
  /** The first that is opened for waits reads the end of its connection in the same step as the answer. */
  class CutClient extends pg.Client {
    constructor(config?: pg.ClientConfig) {
      super(config);
      const { connection } = this as unknown as {
        connection: NodeJS.EventEmitter & { query(text: string): void };
      };
      const query = connection.query.bind(connection);
      connection.query = (text) => {
        query(text);
        if (isCut || !text.includes("prepare ")) return;
        isCut = true;
        connection.once("readyForQuery", () => connection.emit("error", new Error("read ECONNRESET")));
      };
    }
  }
  const pool = createPool({ connectionString: server.url });
  const faults: string[] = [];
  const warn = ({ err }: { err?: Error }): void => void faults.push(String(err?.cause));
  const logger = { debug() {}, info() {}, warn, error() {} };
  await using locker = createLocker({ pool, sessions: "dedicated", logger });
  Reflect.set(pool, "Client", CutClient);
  await using held = await HeldByHand.on(server);
  const waiting = locker.acquire(held.key, { wait: "30s" });
  await server.waiters(held.id, 1);
  expect(faults).toEqual(["Error: read ECONNRESET"]);
  await held.release();
  await (await waiting).release();
});
