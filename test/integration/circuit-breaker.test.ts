import { describe, expect, test } from "vitest";
import {
  type CircuitBreaker,
  CircuitOpenError,
  createCircuitBreaker,
  type Lock,
  LockNotAcquiredError,
} from "../../src/index.ts";
import {
  advisoryLocks,
  connect,
  createOpenPool,
  createPool,
  databaseUrl,
  holdersOf,
  uniqueKey,
} from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { startServer } from "../support/start-server.ts";
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

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test("a caller's abort counts as no failure, before or during the connection's wait", async () => {
    const circuitBreaker = new RecordingBreaker();
    await using locker = createLocker({ sessions, pool: createPool({ max: 1 }), circuitBreaker });
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
    await using locker = createLocker({ sessions, pool, circuitBreaker, connWaitTimeout: "50ms" });
    const refused = locker.acquire(uniqueKey());
    await expect(refused).rejects.toThrow(LockNotAcquiredError);
    await expect(refused).rejects.toMatchObject({ reason: "connection-timeout" });
    expect(circuitBreaker.outcomes).toEqual(["failure"]);
    proxy.cut();
  });

  test("an open breaker refuses acquire and refresh, keeps the lock, lets release pass", async () => {
    const circuitBreaker = new RecordingBreaker();
    await using locker = createLocker({ sessions, circuitBreaker });
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

  test("a breaker that gives up before the server answers leaves and ends nothing", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    const pool = createPool({ connectionString: proxy.url });
    let gaveUp: () => void = () => {};
    let isPatient = true;
    const circuitBreaker: CircuitBreaker = {
      async execute<T>(fn: () => Promise<T>): Promise<T> {
        const outcome = fn();
        if (isPatient) return outcome;
        gaveUp();
        throw new Error("too slow");
      },
    };
    await using locker = createLocker({ sessions, pool, circuitBreaker });
    await (await locker.acquire(uniqueKey())).release();
    isPatient = false;
    for (const ask of [() => locker.acquire(uniqueKey()), (lock?: Lock) => lock?.refresh()]) {
      await using lock = ask.length === 0 ? undefined : await locker.acquire(uniqueKey());
      proxy.freeze({ direction: "toClient" });
      const left = new Promise<void>((resolve) => {
        gaveUp = resolve;
      });
      const asked = ask(lock);
      await left;
      proxy.thaw();
      const granted = await asked;
      expect((granted ?? lock)?.held).toBe(true);
      await granted?.release();
    }
    expect(await advisoryLocks()).toEqual([]);
  });

  describe("a breaker that lets nothing through for a while", () => {
    const waiting = () => {
      const gates: (() => void)[] = [];
      let isOpen = true;
      const circuitBreaker: CircuitBreaker = {
        async execute<T>(fn: () => Promise<T>): Promise<T> {
          if (!isOpen) await new Promise<void>((resolve) => gates.push(resolve));
          return fn();
        },
      };
      return {
        circuitBreaker,
        shut: () => {
          isOpen = false;
        },
        reached: () => until(() => gates.length > 0),
        open: (): void => {
          for (const gate of gates) gate();
        },
      };
    };

    test("sends no acquire whose caller has left in the meantime", async () => {
      const { circuitBreaker, shut, reached, open } = waiting();
      const pool = createPool({ max: 1 });
      await using locker = createLocker({ sessions, pool, circuitBreaker });
      shut();
      const aborting = new AbortController();
      const reason = new Error("the caller left");
      const left = locker.acquire(uniqueKey(), { signal: aborting.signal });
      await reached();
      aborting.abort(reason);
      await expect(left).rejects.toBe(reason);
      open();
      await new Promise(setImmediate);
      expect(pool.totalCount).toBe(0);
    });

    test("leaves the client of a call that was aborted in the meantime alone", async () => {
      const { circuitBreaker, shut, reached, open } = waiting();
      await using locker = createLocker({ sessions, circuitBreaker });
      const client = await connect();
      await client.query("begin");
      shut();
      const aborting = new AbortController();
      const never = () => expect.unreachable();
      const left = locker.withTransaction(uniqueKey(), never, { client, signal: aborting.signal });
      await reached();
      aborting.abort(new Error("the caller left"));
      await expect(left).rejects.toThrow("the caller left");
      await client.query("commit; begin");
      open();
      await new Promise(setImmediate);
      await client.query("select 1");
      expect(await advisoryLocks()).toEqual([]);
    });

    test("sends no refresh of a lock that was released in the meantime", async () => {
      const { circuitBreaker, shut, reached, open } = waiting();
      const pool = createPool({ max: 1 });
      const timeout = async () => (await pool.query("show idle_session_timeout")).rows;
      const before = await timeout();
      await using locker = createLocker({ sessions, pool, circuitBreaker, ttlEnforcement: "server" });
      const lock = await locker.acquire(uniqueKey(), { ttl: "10s" });
      shut();
      const refreshed = lock.refresh().catch((error: unknown) => error);
      await reached();
      await lock.release();
      open();
      expect(await refreshed).toMatchObject({ code: "LOCK_NOT_HELD", reason: "released" });
      await until(() => pool.idleCount === 1);
      expect(await timeout()).toEqual(before);
    });
  });

  test("close frees every lock through an open breaker", async () => {
    const circuitBreaker = new RecordingBreaker();
    const locker = createLocker({ sessions, circuitBreaker });
    const lock = await locker.acquire(uniqueKey());
    circuitBreaker.open = true;
    await locker.close();
    expect(await holdersOf(lock.id)).toEqual([]);
  });

  test("the default breaker opens when the server goes away, and closes after it is back", async () => {
    await using server = await startServer();
    const circuitBreaker = createCircuitBreaker({ minimumSamples: 5, openAfter: "1s" });
    await using locker = createLocker({ sessions, connectionString: server.url, circuitBreaker });
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
});

test("contention counts as a success: held elsewhere, and a saturated pool", async () => {
  const circuitBreaker = new RecordingBreaker();
  const pool = await createOpenPool({ max: 2 });
  await using locker = createLocker({ sessions: "dedicated", pool, circuitBreaker, connWaitTimeout: "50ms" });
  const key = uniqueKey();
  await using _first = await locker.acquire(key);
  await expect(locker.acquire(key)).rejects.toMatchObject({ reason: "held" });
  await using _second = await locker.acquire(uniqueKey());
  await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ reason: "pool-saturated" });
  expect(circuitBreaker.outcomes).toEqual(["success", "success", "success", "success"]);
});
