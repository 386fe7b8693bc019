import { afterAll, afterEach, beforeAll, describe, expect, test, vi } from "vitest";
import {
  DatabaseError,
  InvalidTtlError,
  LockExpiredError,
  LockLostError,
  LockNotHeldError,
} from "../../src/index.ts";
import type { PostgresServer } from "../../src/testing/postgres/postgres-server.ts";
import {
  advisoryLocks,
  connect,
  createPool,
  createRole,
  databaseUrl,
  holdersOf,
  uniqueKey,
} from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { enforcedHolders, isAbort, takeOver } from "../support/enforced-holder.ts";
import { createLocker } from "../support/locker.ts";
import { observedPool } from "../support/observed-pool.ts";
import { costlyModes } from "../support/session-modes.ts";
import { ownSettings, sessionSettings } from "../support/session-settings.ts";
import { startServer } from "../support/start-server.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// A TTL that the server enforces, on the holder's session: how long it is, what is refused, and what is left behind.

afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

describe.each(costlyModes)("with %s sessions", (sessions) => {
  const { enforced, hold } = enforcedHolders(sessions);

  describe("a refresh", () => {
    test("to a longer TTL is that long in the server too", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      await using far = enforced(createPool({ connectionString: proxy.url }));
      await using near = enforced();
      const lock = await far.acquire(uniqueKey(), { ttl: 1_000 });
      await lock.refresh("1m");
      proxy.freeze();
      // Another session with the old TTL, which began later, and which only the server ends.
      const url = new URL(databaseUrl());
      url.searchParams.set("options", "-c idle_session_timeout=1000");
      const another = await connect({ connectionString: url.href });
      await new Promise((resolve) => another.once("end", resolve));
      expect(await holdersOf(lock.id)).toHaveLength(1);
      expect(await near.tryAcquire(lock.key)).toBeUndefined();
      proxy.thaw();
      await lock.release();
    });

    test("to a shorter TTL is that short in the server too", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      await using far = enforced(createPool({ connectionString: proxy.url }));
      await using near = enforced();
      const lock = await far.acquire(uniqueKey(), { ttl: "1h" });
      await lock.refresh(300);
      proxy.freeze();
      const next = await takeOver(near, lock.key);
      expect([lock.held, lock.expired]).toEqual([false, true]);
      proxy.cut();
      await next.lock.release();
    });

    test("by itself keeps the lock for many TTLs", async () => {
      await using locker = enforced();
      await using other = enforced();
      await using lock = await locker.acquire(uniqueKey(), { ttl: 1_000, autoRefresh: true });
      for (let round = 0; round < 12; round++) {
        const another = await locker.acquire(uniqueKey(), { ttl: 300 });
        await until(() => !another.held);
        expect(await other.tryAcquire(lock.key)).toBeUndefined();
      }
      expect([lock.held, lock.signal.aborted]).toEqual([true, false]);
      expect(await holdersOf(lock.id)).toHaveLength(1);
    });
  });

  describe("a holder that doesn't refresh", () => {
    test("is told of the expiry, and its lock is freed without its doing", async () => {
      await using proxy = await TcpProxy.start(databaseUrl());
      await using locker = enforced(createPool({ connectionString: proxy.url }));
      const lock = await locker.acquire(uniqueKey(), { ttl: 500 });
      const { signal } = lock;
      proxy.delay(1_200); // The server's message comes after the locker's own timer.
      await until(() => signal.aborted);
      expect(signal.reason).toBeInstanceOf(LockExpiredError);
      expect(signal.reason).toMatchObject({ key: lock.key, ttl: 500 });
      expect([lock.held, lock.expired]).toEqual([false, true]);
      await until(async () => (await holdersOf(lock.id)).length === 0);
      for (const failure of [lock.refresh(), lock.release()]) {
        await expect(failure).rejects.toMatchObject({ code: "LOCK_NOT_HELD", reason: "expired" });
      }
    });

    // The timer is late, as on a busy machine or after a stop of the process. `expired` is true, and then stays false for ever.
    test("is told of the expiry, too, if the server's news of it comes before the timer", async () => {
      const pool = createPool();
      await using locker = enforced(pool);
      // postgres.js connects by a timer.
      await (await locker.acquire(uniqueKey())).release();
      await until(() => pool.idleCount === 1);
      vi.useFakeTimers({ toFake: ["setTimeout"] });
      const lock = await locker.acquire(uniqueKey(), { ttl: 500 });
      const { signal } = lock;
      await until(() => signal.aborted);
      expect(lock.expired).toBe(true);
      expect(signal.reason).toBeInstanceOf(LockExpiredError);
    });

    test("leaves a pool of one that serves again, with its own settings", async () => {
      const pool = createPool({
        max: 2,
        options: ownSettings.map(([name, value]) => `-c ${name}=${value}`).join(" "),
      });
      await using locker = enforced(pool);
      // The session was returned, or the server was faster than the locker and ended it, so the pid isn't compared.
      const { pid: _, ...before } = await sessionSettings(pool);
      for (let round = 0; round < 5; round++) {
        const { signal } = await locker.acquire(uniqueKey(), { ttl: 400 });
        await until(() => signal.aborted);
        expect(await sessionSettings(pool)).toMatchObject(before);
      }
      await (await locker.acquire(uniqueKey())).release();
      expect(await sessionSettings(pool)).toMatchObject(before);
    });
  });

  describe("the session of a holder", () => {
    test("has the settings of its TTL while it holds, and its own ones again afterwards", async () => {
      const { pool, handedOut } = observedPool({ max: 2 });
      await pool.query(ownSettings.map(([name, value]) => `set ${name} = '${value}'`).join("; "));
      const before = await sessionSettings(pool);
      await using locker = enforced(pool);
      const lock = await locker.acquire(uniqueKey(), { ttl: "1m" });
      const holding = handedOut.at(-1);
      if (holding === undefined) throw new Error("no client was reserved");
      expect(await sessionSettings(holding)).toMatchObject({
        idle_session_timeout: "60000",
        tcp_keepalives_idle: "15",
        tcp_keepalives_interval: "15",
        tcp_keepalives_count: "3",
        tcp_user_timeout: "60000",
      });
      await lock.release();
      await until(() => pool.idleCount === pool.totalCount);
      // The same session, as its pid shows.
      expect(await sessionSettings(pool)).toEqual(before);
    });

    test("of a refused caller has its own settings again, too", async () => {
      await using other = enforced();
      const pool = createPool({ max: 2 });
      await pool.query(ownSettings.map(([name, value]) => `set ${name} = '${value}'`).join("; "));
      const before = await sessionSettings(pool);
      await using locker = enforced(pool, { sessions: "dedicated" });
      await using lock = await other.acquire(uniqueKey());
      expect(await locker.tryAcquire(lock.key, { ttl: 200 })).toBeUndefined();
      expect(await sessionSettings(pool)).toEqual(before);
    });

    test("of a role with settings of its own carries locks with tokens, and gets them back", async () => {
      await using role = await createRole({
        settings: {
          idle_session_timeout: "300ms",
          synchronous_commit: "off",
          default_transaction_isolation: "serializable",
          default_transaction_read_only: "on",
        },
      });
      const pool = createPool({ connectionString: role.url, max: 2 });
      await using locker = enforced(pool);
      const before = await sessionSettings(pool);
      expect(before).toMatchObject({
        idle_session_timeout: "300",
        synchronous_commit: "off",
        default_transaction_isolation: "serializable",
        default_transaction_read_only: "on",
      });
      const lock = await locker.acquire(uniqueKey(), { ttl: "1m", fencing: true });
      expect(lock.fencingToken).toBeTypeOf("bigint");
      const another = createPool({ connectionString: role.url, max: 2 });
      await another.query("select 1");
      await until(() => another.totalCount === 0);
      await lock.refresh();
      await lock.release();
      // The same session; or another one of the role, if its own time-out has ended it by now.
      const { pid: _, ...after } = await sessionSettings(pool);
      expect(before).toMatchObject(after);
      await until(() => pool.totalCount === 0);
    });
  });

  describe("a TTL that the server can't enforce", () => {
    const wrong = [
      0.4,
      0.999,
      2147483648,
      "25d",
      1e12,
      Number.POSITIVE_INFINITY,
      0,
      -1,
      "999us",
      "596h31m23.648s",
    ];

    test.each(wrong)(
      "%s is refused by acquire, in words that name the range, and nothing is held",
      async (ttl) => {
        const pool = createPool();
        await using locker = enforced(pool);
        for (const refused of [
          locker.acquire(uniqueKey(), { ttl }),
          locker.tryAcquire(uniqueKey(), { ttl }),
        ]) {
          await expect(refused).rejects.toBeInstanceOf(InvalidTtlError);
          await expect(refused).rejects.toThrow(/from 1 ms to 2147483647 ms, which the server can enforce/);
        }
        expect([await advisoryLocks(), pool.totalCount]).toEqual([[], 0]);
      },
    );

    test("is refused by refresh, and the lock stays as it was", async () => {
      await using locker = enforced();
      const lock = await locker.acquire(uniqueKey(), { ttl: "1m" });
      for (const ttl of wrong) {
        const refused = lock.refresh(ttl);
        await expect(refused).rejects.toBeInstanceOf(InvalidTtlError);
        await expect(refused).rejects.toThrow(/from 1 ms to 2147483647 ms/);
      }
      expect([lock.ttl, lock.held, lock.signal.aborted]).toEqual([60_000, true, false]);
      expect(await holdersOf(lock.id)).toHaveLength(1);
      await lock.release();
    });

    test("is not 2147483647 ms, nor a fraction below: both are accepted", async () => {
      const { pool, handedOut } = observedPool({ max: 2 });
      await using locker = enforced(pool);
      for (const ttl of [2147483647, "2147483647ms", 2147483646.5]) {
        const lock = await locker.acquire(uniqueKey(), { ttl });
        const holding = handedOut.at(-1);
        if (holding === undefined) throw new Error("no client was reserved");
        expect(await sessionSettings(holding)).toMatchObject({ idle_session_timeout: "2147483647" });
        await lock.refresh(ttl);
        expect(lock.held).toBe(true);
        await lock.release();
      }
    });

    test("is not 1 ms, though that is over before much can be done", async () => {
      await using locker = enforced();
      // The answer must arrive within a millisecond; otherwise nothing is known about the grant, and the session is destroyed.
      const outcome = await locker.acquire(uniqueKey(), { ttl: 1 }).catch((error: unknown) => error);
      if (outcome instanceof Error) expect(outcome).toBeInstanceOf(DatabaseError);
      await until(async () => (await advisoryLocks()).length === 0);
      const lock = await locker.acquire(uniqueKey(), { ttl: "1m" });
      const refreshed = await lock.refresh(1).catch((error: unknown) => error);
      if (refreshed !== undefined) expect(refreshed).toBeInstanceOf(LockNotHeldError);
      await until(async () => (await advisoryLocks()).length === 0);
      expect(lock.held).toBe(false);
    });
  });

  describe.each(["server", "client"] as const)("with ttlEnforcement: %j", (ttlEnforcement) => {
    test.skipIf(isOverPostgresJs).each([
      ["an open", "begin", undefined, /the pool's client was in a transaction/],
      ["a failed", "begin; select 1 / 0", "25P02", /current transaction is aborted/],
    ] as const)(
      "a pool's client in %s transaction is destroyed, and nothing is held",
      async (_in, sql, sqlState, says) => {
        const { pool, handedOut } = observedPool({ max: 2 });
        await using locker = createLocker({ sessions, pool, ttlEnforcement });
        for (const options of [{}, { fencing: true }, { mode: "shared" }] as const) {
          const careless = await pool.connect();
          await careless.query(sql).catch(() => {});
          careless.release();
          const key = uniqueKey();
          const refused = await locker.acquire(key, options).catch((error: unknown) => error);
          expect(refused).toBeInstanceOf(DatabaseError);
          // A dedicated session is checked before the first statement, if the driver knows by then what the server has said.
          const either = { message: expect.stringMatching(/was in a transaction|transaction is aborted/) };
          const asSaid = { sqlState, message: expect.stringMatching(says) };
          expect(refused).toMatchObject(sessions === "dedicated" ? either : asSaid);
          expect(pool.totalCount).toBe(0);
          await until(async () => (await advisoryLocks()).length === 0);
          const lock = await locker.acquire(key, options);
          expect(handedOut.at(-1)).not.toBe(careless);
          expect(await holdersOf(lock.id)).toHaveLength(1);
          await lock.release();
          await until(() => pool.idleCount === pool.totalCount);
        }
      },
    );
  });

  describe("on a server that fails", () => {
    let server: PostgresServer;
    beforeAll(async () => {
      server = await startServer();
    });
    afterAll(() => server[Symbol.asyncDispose]());

    test.each([
      ["is restarted", (server: PostgresServer) => server.restart()],
      ["is restarted as after a crash", (server: PostgresServer) => server.restart({ mode: "immediate" })],
      ["loses another backend to kill -9, and so ends them all", killAnotherBackend],
    ] as const)(
      "%s, every holder's signal aborts, and new locks are as good as ever",
      async (_what, fail) => {
        const pool = createPool({ connectionString: server.url });
        await using locker = enforced(pool);
        const key = uniqueKey();
        await using holder = await hold(key, { ttl: "1h", autoRefresh: true }, server.url);
        const options = { ttl: "1h", autoRefresh: true };
        const locks = await Promise.all([1, 2, 3].map(() => locker.acquire(uniqueKey(), options)));
        const signals = locks.map((lock) => lock.signal);
        await fail(server);
        await until(() => signals.every(({ reason }) => reason instanceof LockLostError), {
          deadline: 15_000,
        });
        expect(await holder.message(isAbort)).toMatchObject({ aborted: "LOCK_LOST" });
        expect(locks.map((lock) => lock.held)).toEqual([false, false, false]);
        const again = await until(() => locker.acquire(key).catch(unlessDown), { deadline: 15_000 });
        await again.refresh();
        expect(again.held).toBe(true);
        await again.release();
      },
    );
  });
});

/** The postmaster ends every session, because their shared memory may be damaged, and recovers. */
async function killAnotherBackend(server: PostgresServer): Promise<void> {
  const another = await connect({ connectionString: server.url });
  process.kill(another.processID, "SIGKILL");
}

function unlessDown(error: unknown): undefined {
  if (!(error instanceof DatabaseError)) throw error;
}
