import { expect, inject, test } from "vitest";
import {
  type CircuitBreaker,
  CircuitOpenError,
  createCircuitBreaker,
  LockNotAcquiredError,
  PostgresLocker,
} from "../../src/index.ts";
import { PostgresServer } from "../../src/testing/postgres-server.ts";
import { createOpenPool, createPool, databaseUrl, holdersOf, uniqueKey } from "../support/database.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

/** Records how each execution ended, and refuses while it is open. */
class RecordingBreaker implements CircuitBreaker {
  readonly outcomes: ("success" | "failure")[] = [];
  open = false;

  async execute<T>(fn: () => Promise<T>): Promise<T> {
    if (this.open) throw new Error("open");
    try {
      const answer = await fn();
      this.outcomes.push("success");
      return answer;
    } catch (error) {
      this.outcomes.push("failure");
      throw error;
    }
  }
}

test("contention counts as a success: held elsewhere, and a saturated pool", async () => {
  const circuitBreaker = new RecordingBreaker();
  const pool = await createOpenPool({ max: 2 });
  await using locker = new PostgresLocker({
    sessions: "dedicated",
    pool,
    circuitBreaker,
    connWaitTimeout: "50ms",
  });
  const key = uniqueKey();
  await using _first = await locker.acquire(key);
  await expect(locker.acquire(key)).rejects.toMatchObject({ reason: "held" });
  await using _second = await locker.acquire(uniqueKey());
  await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ reason: "pool-saturated" });
  expect(circuitBreaker.outcomes).toEqual(["success", "success", "success", "success"]);
});

test("a caller's own abort is no failure, neither before nor while a connection is waited for", async () => {
  const circuitBreaker = new RecordingBreaker();
  await using locker = new PostgresLocker({ pool: createPool({ max: 1 }), circuitBreaker });
  await using lock = await locker.acquire(uniqueKey());
  const reason = new Error("the caller left");
  const before = locker.acquire(uniqueKey(), { signal: AbortSignal.abort(reason) });
  await expect(before).rejects.toBe(reason);
  expect(circuitBreaker.outcomes).toEqual(["success"]);
  const controller = new AbortController();
  const waiting = locker.acquire(uniqueKey(), { signal: controller.signal });
  controller.abort(reason);
  await expect(waiting).rejects.toBe(reason);
  await expect(lock.refresh("1m", { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
  await lock.release();
  expect(circuitBreaker.outcomes).not.toContain("failure");
});

test("a server that does not answer is a failure", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  proxy.freeze();
  const circuitBreaker = new RecordingBreaker();
  const pool = createPool({ connectionString: proxy.url });
  await using locker = new PostgresLocker({ pool, circuitBreaker, connWaitTimeout: "50ms" });
  const refused = locker.acquire(uniqueKey());
  await expect(refused).rejects.toThrow(LockNotAcquiredError);
  await expect(refused).rejects.toMatchObject({ reason: "connection-timeout" });
  expect(circuitBreaker.outcomes).toEqual(["failure"]);
  proxy.cut();
});

test("an open breaker refuses acquire, and refresh without ending the lock; release passes", async () => {
  const circuitBreaker = new RecordingBreaker();
  await using locker = new PostgresLocker({ pool: createPool(), circuitBreaker });
  const lock = await locker.acquire(uniqueKey());
  circuitBreaker.open = true;
  await expect(locker.acquire(uniqueKey())).rejects.toThrow(CircuitOpenError);
  await expect(lock.refresh("1h")).rejects.toThrow(CircuitOpenError);
  expect(lock.held).toBe(true);
  expect(lock.ttl).toBe(30_000);
  expect(lock.signal.aborted).toBe(false);
  expect(await holdersOf(lock.id)).toHaveLength(1);
  await lock.release();
  expect(await holdersOf(lock.id)).toEqual([]);
});

test("a refresh that the breaker lets through when the lock has been released sends nothing", async () => {
  let gate = Promise.resolve();
  const circuitBreaker: CircuitBreaker = {
    execute: async (fn) => {
      await gate;
      return fn();
    },
  };
  const pool = createPool();
  let statements = 0;
  pool.on("connect", (client) => {
    const query = client.query.bind(client) as (...args: unknown[]) => unknown;
    (client as { query: unknown }).query = (...args: unknown[]) => {
      statements += 1;
      return query(...args);
    };
  });
  await using locker = new PostgresLocker({ pool, circuitBreaker });
  const lock = await locker.acquire(uniqueKey());
  let open = () => {};
  gate = new Promise((resolve) => {
    open = resolve;
  });
  const refreshed = lock.refresh("1h").catch((error: unknown) => error);
  await new Promise(setImmediate); // It waits for the breaker.
  await lock.release();
  const sent = statements;
  open();
  expect(await refreshed).toMatchObject({ code: "LOCK_NOT_HELD", reason: "released" });
  expect(statements).toBe(sent);
  await until(() => pool.totalCount === pool.idleCount);
});

test("close frees every lock through an open breaker", async () => {
  const circuitBreaker = new RecordingBreaker();
  const locker = new PostgresLocker({ pool: createPool(), circuitBreaker });
  const lock = await locker.acquire(uniqueKey());
  circuitBreaker.open = true;
  await locker.close();
  expect(await holdersOf(lock.id)).toEqual([]);
});

test("the default breaker opens when the server goes away, and closes after it is back", async () => {
  await using server = await PostgresServer.start({ major: inject("postgresMajor") });
  const circuitBreaker = createCircuitBreaker({ minimumSamples: 5, openAfter: "1s" });
  await using locker = new PostgresLocker({ connectionString: server.url, circuitBreaker });
  const failure = () =>
    locker.acquire(uniqueKey()).then(
      () => undefined,
      (error: unknown) => error,
    );
  await server.stop();
  await until(async () => (await failure()) instanceof CircuitOpenError);
  await server.resume();
  const lock = await until(() => locker.acquire(uniqueKey()).catch(() => undefined), { deadline: 15_000 });
  expect(lock.held).toBe(true);
  await lock.release();
});
