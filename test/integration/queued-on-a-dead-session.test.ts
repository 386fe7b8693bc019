import { describe, expect, test } from "vitest";
import { DatabaseError, LockNotAcquiredError } from "../../src/index.ts";
import {
  advisoryLocks,
  createOpenPool,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
} from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { createLocker } from "../support/locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// A shared session dies with a statement under way and others queued: those that were never sent are sent on a new session.

const keys = (count: number): string[] => Array.from({ length: count }, () => uniqueKey());

describe("a session that dies", () => {
  test("fails what was sent, and grants twenty queued acquires on a new session", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = createLocker({ pool: createPool({ connectionString: proxy.url }) });
    const carried = await locker.acquire(uniqueKey());
    proxy.freeze();
    const sent = locker.acquire("sent first").catch((error: unknown) => error);
    const queued = [
      ...keys(20).map((key) => locker.acquire(key)),
      ...keys(5).map((key) => locker.acquire(key, { mode: "shared" })),
    ];
    proxy.cut();
    proxy.thaw();
    const locks = await Promise.all(queued);
    expect(locks.every((lock) => lock.held)).toBe(true);
    expect(await sent).toBeInstanceOf(DatabaseError);
    expect(await sent).toMatchObject({ message: expect.stringContaining("sent first") });
    expect([carried.held, carried.signal.aborted]).toEqual([false, true]);
    expect(await advisoryLocks()).toHaveLength(25);
  });

  test("and a queued caller that has left since is not asked for again", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = createLocker({ pool: createPool({ connectionString: proxy.url }) });
    await locker.acquire(uniqueKey());
    proxy.freeze();
    const controller = new AbortController();
    const sent = locker.acquire(uniqueKey()).catch(() => {});
    const [stays, leaves] = [
      locker.acquire(uniqueKey()),
      locker.acquire(uniqueKey(), { signal: controller.signal }).catch((error: unknown) => error),
    ];
    controller.abort("gone");
    proxy.cut();
    proxy.thaw();
    expect(await leaves).toBe("gone");
    const lock = await stays;
    await sent;
    expect(await advisoryLocks()).toHaveLength(1);
    await lock.release();
  });

  test("a second time ends them, each with an error that names its key", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = createLocker({
      pool: createPool({ connectionString: proxy.url }),
      connWaitTimeout: "5s",
    });
    await locker.acquire(uniqueKey());
    proxy.freeze();
    const queued = keys(5);
    const outcomes = Promise.allSettled([uniqueKey(), ...queued].map((key) => locker.acquire(key)));
    await proxy.refuse();
    proxy.cut();
    proxy.thaw();
    const [, ...rest] = await outcomes;
    for (const [at, outcome] of rest.entries()) {
      if (outcome.status === "fulfilled") throw new Error("it was granted");
      expect(outcome.reason).toBeInstanceOf(DatabaseError);
      expect(outcome.reason.message).toContain(queued[at]);
    }
    await proxy.accept();
    // And the next caller is served.
    await (await locker.acquire(uniqueKey())).release();
  });

  test("if the server ends it under load, fails nothing that had not been sent", async () => {
    await using locker = createLocker();
    const failed: unknown[] = [];
    for (let round = 0; round < 10; round += 1) {
      const first = await locker.acquire(uniqueKey());
      const [pid] = await holdersOf(first.id);
      const killing = onServer("select pg_terminate_backend($1)", [pid]);
      const outcomes = await Promise.allSettled(keys(200).map((key) => locker.acquire(key)));
      await killing;
      for (const outcome of outcomes) {
        if (outcome.status === "rejected") failed.push(outcome.reason);
      }
      await Promise.all(
        outcomes.map((outcome) =>
          outcome.status === "fulfilled" ? outcome.value.release().catch(() => {}) : null,
        ),
      );
      await first.release().catch(() => {});
    }
    // Only the operations whose statement was under way.
    expect(failed.every((error) => error instanceof DatabaseError && /"key:/.test(error.message))).toBe(true);
    await until(async () => (await advisoryLocks()).length === 0);
  });
});

describe("a caller that joins a session which is being opened", () => {
  test.skipIf(isOverPostgresJs)("waits no longer than its own time, which its error names", async () => {
    const pool = await createOpenPool({ max: 2 });
    const busy = await Promise.all([pool.connect(), pool.connect()]);
    await using locker = createLocker({ pool, connWaitTimeout: "1s" });
    const ask = async (): Promise<{ error: unknown; after: number }> => {
      const start = performance.now();
      const error = await locker.acquire(uniqueKey()).catch((reason: unknown) => reason);
      return { error, after: performance.now() - start };
    };
    const first = ask();
    await new Promise((resolve) => setTimeout(resolve, 800));
    const second = ask();
    for (const { error, after } of [await first, await second]) {
      expect(error).toBeInstanceOf(LockNotAcquiredError);
      expect(error).toMatchObject({ reason: "pool-saturated" });
      expect(after).toBeGreaterThan(890);
      expect(Math.abs(((error as LockNotAcquiredError).waited as number) - after)).toBeLessThan(300);
    }
    for (const client of busy) client.release();
    await (await locker.acquire(uniqueKey())).release();
  });
});
