import type pg from "pg";
import { describe, expect, test } from "vitest";
import { DatabaseError, type PostgresLocker } from "../../src/index.ts";
import { createOpenPool, createPool, databaseUrl, uniqueKey } from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { createLocker } from "../support/locker.ts";
import { silentServer } from "../support/silent-server.ts";
import { until } from "../support/until.ts";

// A pool that gives nobody a connection: a request that stays in its queue is for the callers that come after the one who made it.

interface Way {
  sessions: "dedicated" | "shared";
  ask(locker: PostgresLocker, signal: AbortSignal): Promise<unknown>;
}

const ways: ReadonlyArray<readonly [string, Way]> = [
  ["a dedicated session", { sessions: "dedicated", ask: (locker) => locker.acquire(uniqueKey()) }],
  ["a shared session", { sessions: "shared", ask: (locker) => locker.acquire(uniqueKey()) }],
  ["a transaction", { sessions: "shared", ask: (locker) => locker.withTransaction(uniqueKey(), () => {}) }],
  [
    "the look of a semaphore",
    { sessions: "shared", ask: (locker) => locker.semaphore(uniqueKey(), 2).acquire() },
  ],
];

describe.each(ways)("callers that come and leave, each for %s,", (_, { sessions, ask }) => {
  const never = new AbortController().signal;

  test("leave no more requests than there are at the same time", async () => {
    const pool = createPool({ max: 2 });
    await using locker = createLocker({ sessions, pool, connWaitTimeout: "250ms" });
    const free = await fill(locker);
    for (let round = 0; round < 4; round += 1) {
      const asked = Array.from({ length: 3 }, () => ask(locker, never));
      for (const each of asked) {
        const error = await each.catch((caught: unknown) => caught);
        expect(error).toMatchObject({
          reason: "pool-saturated",
          waited: expect.toSatisfy(isBetween(249, 700)),
        });
      }
      expect(pool.waitingCount).toBeLessThanOrEqual(3);
    }
    await free();
    await until(() => pool.waitingCount === 0 && pool.idleCount === pool.totalCount);
    await ask(locker, never);
  });
});

const aborted: ReadonlyArray<readonly [string, Way]> = [
  [
    "a dedicated session",
    { sessions: "dedicated", ask: (locker, signal) => locker.acquire(uniqueKey(), { signal }) },
  ],
  [
    "a transaction",
    {
      sessions: "shared",
      ask: (locker, signal) => locker.withTransaction(uniqueKey(), () => {}, { signal }),
    },
  ],
  [
    "a transaction with a wait",
    {
      sessions: "shared",
      ask: (locker, signal) => locker.withTransaction(uniqueKey(), () => {}, { signal, wait: true }),
    },
  ],
  [
    "the look of a semaphore",
    { sessions: "shared", ask: (locker, signal) => locker.semaphore(uniqueKey(), 2).acquire({ signal }) },
  ],
];

describe.each(aborted)(
  "callers that wait without a bound and abort, each for %s,",
  (_, { sessions, ask }) => {
    test("leave one request, which the next one takes over", async () => {
      const pool = createPool({ max: 2 });
      await using locker = createLocker({ sessions, pool, connWaitTimeout: -1 });
      const free = await fill(locker);
      for (let round = 0; round < 5; round += 1) {
        const aborting = new AbortController();
        const asked = ask(locker, aborting.signal);
        await until(() => pool.waitingCount === 1);
        aborting.abort(new Error("enough"));
        await expect(asked).rejects.toThrow("enough");
      }
      const last = ask(locker, new AbortController().signal);
      await new Promise(setImmediate);
      expect(pool.waitingCount).toBe(1);
      await free();
      await last;
    });
  },
);

test("callers that look whether a lock is free leave one request, if none has a bound", async () => {
  const pool = createPool({ max: 2 });
  await using elsewhere = createLocker();
  await using held = await elsewhere.acquire(uniqueKey());
  await using locker = createLocker({
    sessions: "dedicated",
    pool,
    connWaitTimeout: -1,
    maxWaitingSessions: 1,
  });
  const free = await fill(locker);
  const aborting = new AbortController();
  const inTheServer = locker.acquire(held.key, { wait: true, signal: aborting.signal });
  await until(() => locker.stats().sessions === 1);
  for (let round = 0; round < 3; round += 1) {
    const polls = locker.acquire(uniqueKey(), { wait: "750ms" });
    await expect(polls).rejects.toMatchObject({ reason: "wait-timeout" });
    expect(pool.waitingCount).toBe(1);
  }
  aborting.abort(new Error("enough"));
  await expect(inTheServer).rejects.toThrow("enough");
  await free();
});

test("a circuit breaker is told that no connection came, even if the caller has left", async () => {
  await using server = await silentServer();
  const outcomes: unknown[] = [];
  const breaker = {
    execute: <T>(fn: () => Promise<T>): Promise<T> => {
      const outcome = fn();
      outcome.catch((error: unknown) => outcomes.push(error));
      return outcome;
    },
  };
  const pool = createPool({ connectionString: server.url });
  await using locker = createLocker({
    sessions: "dedicated",
    pool,
    connWaitTimeout: "100ms",
    circuitBreaker: breaker,
  });
  const aborting = new AbortController();
  const asked = locker.acquire(uniqueKey(), { signal: aborting.signal });
  aborting.abort(new Error("enough"));
  await expect(asked).rejects.toThrow("enough");
  await until(() => outcomes.length === 1);
  expect(outcomes).toMatchObject([{ reason: "connection-timeout" }]);
  await until(() => {
    server.hangUp();
    return pool.totalCount === 0;
  });
});

// They take connections from the pool themselves, or share it between lockers.
describe.skipIf(isOverPostgresJs)("a request that its caller has left", () => {
  test("goes to the one who waits longest", async () => {
    const pool = await createOpenPool({ max: 1 });
    await using patient = createLocker({ sessions: "dedicated", pool });
    const held = await pool.connect();
    const order: string[] = [];
    const take = async (name: string): Promise<void> => {
      const lock = await patient.acquire(uniqueKey());
      order.push(name);
      await lock.release();
    };
    const gone = await leaveOne(pool);
    const second = take("second");
    // The application's own request comes after the one that was left.
    const application = pool.connect().then((client) => {
      order.push("application");
      client.release();
    });
    const another = leaveOne(pool);
    const third = take("third");
    await Promise.all([gone, another]);
    const fourth = take("fourth");
    expect(pool.waitingCount).toBe(4);
    held.release();
    await Promise.all([second, third, fourth, application]);
    expect(order).toEqual(["second", "application", "third", "fourth"]);
  });

  test("and that fails by the pool's own bound fails nobody else", async () => {
    const pool = await createOpenPool({ max: 1, connectionTimeoutMillis: 1_000 });
    const asked = requestsOf(pool);
    await using patient = createLocker({ sessions: "dedicated", pool, connWaitTimeout: "30s" });
    const held = await pool.connect();
    await leaveOne(pool, "600ms");
    const taken = patient.acquire(uniqueKey());
    expect(asked()).toBe(2);
    await until(() => asked() === 3);
    held.release();
    await (await taken).release();
  });

  test("does not change how long the pool's own bound lets the next one wait", async () => {
    const pool = await createOpenPool({ max: 1, connectionTimeoutMillis: 1_000 });
    await using patient = createLocker({ sessions: "dedicated", pool, connWaitTimeout: "30s" });
    const held = await pool.connect();
    await leaveOne(pool, "300ms");
    const refused = patient.acquire(uniqueKey());
    await expect(refused).rejects.toMatchObject({
      reason: "pool-saturated",
      waited: expect.toSatisfy(isBetween(999, 1_600)),
    });
    held.release();
  });

  test("and whose connection can't be made fails nobody else", async () => {
    await using server = await silentServer();
    const pool = createPool({ max: 1, connectionString: server.url });
    await using patient = createLocker({ sessions: "dedicated", pool });
    // The one is being made, the other waits for its place.
    await leaveOne(pool);
    await leaveOne(pool);
    const taken = patient.acquire(uniqueKey());
    expect(pool.waitingCount).toBe(1);
    server.hangUp();
    await until(() => server.accepted === 2);
    Object.assign(pool.options, { connectionString: databaseUrl() });
    server.hangUp();
    await (await taken).release();
  });

  test("and whose connection is never made keeps nobody from another", async () => {
    await using server = await silentServer();
    const pool = createPool({ max: 2 });
    await using patient = createLocker({ sessions: "dedicated", pool });
    await (await patient.acquire(uniqueKey())).release();
    const [held, other] = [await pool.connect(), await pool.connect()];
    await leaveOne(pool);
    const taken = patient.acquire(uniqueKey());
    expect(pool.waitingCount).toBe(1);
    Object.assign(pool.options, { connectionString: server.url });
    held.release(true);
    await until(() => server.accepted === 1);
    other.release();
    await (await taken).release();
    server.hangUp();
  });

  test("does not hide that the pool has ended", async () => {
    const pool = await createOpenPool({ max: 1 });
    await using patient = createLocker({ sessions: "dedicated", pool, connWaitTimeout: -1 });
    const held = await pool.connect();
    await leaveOne(pool);
    const ended = pool.end();
    await expect(patient.acquire(uniqueKey())).rejects.toBeInstanceOf(DatabaseError);
    held.release();
    await ended;
  });

  test("serves the next one if the pool only gives promises", async () => {
    const pool = await createOpenPool({ max: 1 });
    const connect = pool.connect.bind(pool);
    Object.assign(pool, { connect: () => connect() });
    await using patient = createLocker({ sessions: "dedicated", pool });
    const held = await pool.connect();
    for (let times = 0; times < 3; times += 1) await leaveOne(pool);
    const taken = patient.acquire(uniqueKey());
    expect(pool.waitingCount).toBe(1);
    held.release();
    await (await taken).release();
    await until(() => pool.idleCount === 1);
  });
});

/** Takes all connections of the locker's pool, which has two. @returns what gives them back */
async function fill(locker: PostgresLocker): Promise<() => Promise<void>> {
  let free: () => void = () => {};
  const freed = new Promise<void>((resolve) => {
    free = resolve;
  });
  const begun: Array<() => void> = [];
  const taken = [1, 2].map(() =>
    locker.withTransaction(uniqueKey(), async () => {
      begun.push(free);
      await freed;
    }),
  );
  await until(() => begun.length === 2);
  return async () => {
    free();
    await Promise.all(taken);
  };
}

/** Asks the pool for a connection, and leaves the request in its queue. */
async function leaveOne(pool: pg.Pool, connWaitTimeout = "30ms"): Promise<void> {
  await using impatient = createLocker({ sessions: "dedicated", pool, connWaitTimeout });
  await expect(impatient.acquire(uniqueKey())).rejects.toMatchObject({ code: "LOCK_NOT_ACQUIRED" });
}

/** Counts the calls of the pool's `connect`. */
function requestsOf(pool: pg.Pool): () => number {
  const connect = pool.connect.bind(pool);
  let asked = 0;
  Object.assign(pool, {
    connect: (callback?: Parameters<typeof connect>[0]) => {
      asked += 1;
      return callback === undefined ? connect() : connect(callback);
    },
  });
  return () => asked;
}

function isBetween(least: number, most: number): (waited: unknown) => boolean {
  return (waited) => Number(waited) >= least && Number(waited) < most;
}
