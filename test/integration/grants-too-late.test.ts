import pg from "pg";
import { describe, expect, test } from "vitest";
import {
  LockExpiredError,
  lockId,
  type PostgresLocker,
  type PostgresLockerOptions,
} from "../../src/index.ts";
import { connect, createPool, databaseUrl, holdersOf, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// A lock whose TTL has passed before its caller could know of it was never held: no function runs under it, and it is given back.

const ttl = 600;

/** A client whose process stands still for longer than the TTL once it has sent a statement that is meant. */
function standStillAfter(isMeant: (text: string) => boolean): typeof pg.Client {
  return class extends pg.Client {
    override query(...args: unknown[]): never {
      // biome-ignore lint/suspicious/noExplicitAny: it has nine signatures
      const answer = (super.query as any)(...args);
      const text = String((args[0] as { text?: string }).text ?? args[0]);
      // In a step of its own, when the driver has sent it.
      if (isMeant(text)) setImmediate(block);
      return answer as never;
    }
  };
}

function block(): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, ttl + 100);
}

const ways: Record<string, PostgresLockerOptions> = {
  "shared sessions": {},
  "shared sessions, TTL enforced by the server": { ttlEnforcement: "server" },
  "dedicated sessions": { sessions: "dedicated" },
  "dedicated sessions, TTL enforced by the server": { sessions: "dedicated", ttlEnforcement: "server" },
};

const isFree = async (key: string): Promise<boolean> => (await holdersOf(lockId(0, key))).length === 0;

describe.each(Object.keys(ways))("with %s", (way) => {
  const lockerOn = (pool: pg.Pool): PostgresLocker => createLocker({ ...ways[way], pool });

  test("several locks are none if one is over before the caller gets them", async () => {
    await using locker = lockerOn(createPool());
    const keys = [uniqueKey(), uniqueKey()] as const;
    let granted = 0;
    // The locks are granted in one answer, and their timers haven't rung when the last listener returns.
    locker.on("acquired", () => {
      granted += 1;
      if (granted === keys.length) block();
    });
    await expect(locker.acquireAll(keys, { ttl })).rejects.toThrow(LockExpiredError);
    await until(async () => (await isFree(keys[0])) && (await isFree(keys[1])));
    expect(locker.stats().locks).toBe(0);
  });

  test("a process that stands still while it takes a lock doesn't run its function", async () => {
    const Client = standStillAfter((text) => text.includes("pg_try_advisory_lock"));
    const pool = createPool({ Client } as pg.PoolConfig);
    await using locker = lockerOn(pool);
    // Its session is opened, and the server proved.
    await (await locker.acquire(uniqueKey(), { ttl: "1m" })).release();
    const key = uniqueKey();
    let isRun = false;
    const running = locker.withLock(
      key,
      () => {
        isRun = true;
      },
      { ttl },
    );
    await expect(running).rejects.toMatchObject({ code: "DATABASE_ERROR", key });
    expect(isRun).toBe(false);
    await until(() => isFree(key));
  });
});

test("a listener that takes longer than the TTL has the function not run", async () => {
  await using locker = createLocker();
  locker.on("acquired", block);
  let isRun = false;
  const run = (): void => {
    isRun = true;
  };
  const [one, other] = [uniqueKey(), uniqueKey()];
  await expect(locker.withLock(one, run, { ttl })).rejects.toMatchObject({ code: "LOCK_EXPIRED", key: one });
  await expect(locker.tryWithLock(one, run, { ttl })).rejects.toMatchObject({ code: "LOCK_EXPIRED" });
  await expect(locker.withLocks([one, other], run, { ttl })).rejects.toMatchObject({ code: "LOCK_EXPIRED" });
  expect(isRun).toBe(false);
  await until(async () => (await isFree(one)) && (await isFree(other)));
});

test("a listener that takes longer than the TTL has the leader stand again", async () => {
  await using locker = createLocker({ ttlEnforcement: "server" });
  let elected = 0;
  locker.on("acquired", () => {
    elected += 1;
    if (elected === 1) block();
  });
  const ending = new AbortController();
  const led: boolean[] = [];
  await locker.elect(uniqueKey(), {
    ttl,
    retryPeriod: 10,
    signal: ending.signal,
    onElected: (lock) => {
      led.push(lock.held);
      ending.abort();
    },
  });
  expect([elected, led]).toEqual([2, [true]]);
});

test("a process that stands still while it checks its permit doesn't run its function", async () => {
  let looks = 0;
  // It looks for a free place, takes it, and looks again.
  const Client = standStillAfter((text) => {
    if (!text.includes("pg_locks")) return false;
    looks += 1;
    return looks === 2;
  });
  const pool = createPool({ Client } as pg.PoolConfig);
  await using locker = createLocker({ pool });
  await (await locker.acquire(uniqueKey())).release();
  looks = 0;
  const key = uniqueKey();
  const permits = locker.semaphore(key, 2);
  let isRun = false;
  const running = permits.withPermit(
    () => {
      isRun = true;
    },
    { ttl, autoRefresh: false },
  );
  await expect(running).rejects.toMatchObject({ code: "DATABASE_ERROR", key });
  expect(isRun).toBe(false);
});

test("a slow link to the caller's own client: the function isn't run", async () => {
  await using proxy = await TcpProxy.start(databaseUrl());
  await using locker = createLocker({ pool: createPool({ connectionString: proxy.url }) });
  await locker.ping();
  const client = await connect({ connectionString: proxy.url });
  const key = uniqueKey();
  proxy.delay(400);
  let isRun = false;
  const running = locker.withLock(
    key,
    () => {
      isRun = true;
    },
    { ttl, client },
  );
  await expect(running).rejects.toMatchObject({ code: "DATABASE_ERROR", key });
  expect(isRun).toBe(false);
  proxy.delay(0);
  await until(() => isFree(key));
});
