import { setImmediate as nextTurn } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { semaphoreBlock } from "../../src/contract/permit-block.ts";
import {
  InvalidConfigError,
  type Lock,
  LockExpiredError,
  LockerClosedError,
  LockLostError,
  LockNotAcquiredError,
  lockId,
  type PostgresLocker,
  type PostgresLockerOptions,
  type Semaphore,
} from "../../src/index.ts";
import { Child } from "../support/child.ts";
import {
  type AdvisoryLock,
  advisoryLocks,
  createPool,
  databaseUrl,
  onServer,
  uniqueKey,
} from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

/** The first id of the block of a key. */
const blockOf = (key: string): bigint => semaphoreBlock(lockId(0, key));
const locksOf = async (key: string): Promise<AdvisoryLock[]> =>
  (await advisoryLocks()).filter(({ id }) => BigInt.asIntN(64, id & ~0x7ffffn) === blockOf(key));
const turnstileOf = async (key: string): Promise<AdvisoryLock[]> =>
  (await locksOf(key)).filter(({ id }) => id === blockOf(key));
/** Resolves when that many sessions stand in the line of a semaphore, including the next in line. */
const inLine = (key: string, count: number): Promise<boolean> =>
  until(async () => (await turnstileOf(key)).length === count, { what: `${count} in line` });

const refused = async (asked: Promise<unknown>): Promise<unknown> =>
  asked.then(
    () => "granted",
    (error: unknown) => error,
  );

describe.each(sessionModes)("with %s sessions", (sessions) => {
  const env = { DATABASE_URL: databaseUrl(), SESSIONS: sessions };

  /** Lockers, each as if in a process of its own. */
  const lockers = (count: number, options: Partial<PostgresLockerOptions> = {}) => {
    const all = Array.from({ length: count }, () => createLocker({ sessions, ...options }));
    return {
      all,
      semaphores: (key: string, permits: number): Semaphore[] =>
        all.map((each) => each.semaphore(key, permits)),
      [Symbol.asyncDispose]: async () => void (await Promise.all(all.map((each) => each.close()))),
    };
  };

  test("as many permits are granted as there are, in whatever process, and then no more", async () => {
    const key = uniqueKey();
    await using fleet = lockers(3);
    const [a, b, c] = fleet.semaphores(key, 2) as [Semaphore, Semaphore, Semaphore];
    const first = await a.acquire();
    const second = await b.acquire();
    expect(first).toMatchObject({ key, held: true, mode: "exclusive", fencingToken: undefined });
    expect(first.id).not.toBe(second.id);
    expect(await c.tryAcquire()).toBeUndefined();
    expect(await refused(c.acquire())).toMatchObject({ code: "LOCK_NOT_ACQUIRED", reason: "held", key });
    expect(await c.tryWithPermit(() => 1)).toEqual({ acquired: false });
    await first.release();
    expect(await c.withPermit((permit) => permit.held)).toBe(true);
    expect(await c.tryWithPermit(() => 1)).toEqual({ acquired: true, value: 1 });
    await second.release();
    expect(await locksOf(key)).toEqual([]);
  });

  test("many callers of one process get what there is, and no more", async () => {
    const key = uniqueKey();
    await using fleet = lockers(1);
    const [semaphore] = fleet.semaphores(key, 3) as [Semaphore];
    const permits = (await Promise.all(Array.from({ length: 20 }, () => semaphore.tryAcquire()))).filter(
      (permit) => permit !== undefined,
    );
    expect(new Set(permits.map(({ id }) => id)).size).toBe(3);
    expect(permits).toHaveLength(3);
    await Promise.all(permits.map((permit) => permit.release()));
    let inside = 0;
    let most = 0;
    const work = async (): Promise<void> => {
      inside += 1;
      most = Math.max(most, inside);
      await nextTurn();
      inside -= 1;
    };
    await Promise.all(Array.from({ length: 20 }, () => semaphore.withPermit(work, { wait: "15s" })));
    expect(most).toBeLessThanOrEqual(3);
  });

  test("a semaphore and the lock of the same key have nothing to do with each other", async () => {
    const key = uniqueKey();
    await using fleet = lockers(1);
    const [locker] = fleet.all as [PostgresLocker];
    await using _lock = await locker.acquire(key);
    await using _one = await locker.semaphore(key, 1).acquire();
    await using _two = await locker.semaphore(`${key}:`, 1).acquire();
    expect(await locker.tryAcquire(key)).toBeUndefined();
    expect(await locker.semaphore(key, 1).tryAcquire()).toBeUndefined();
  });

  test("three processes with two permits are never inside together", async () => {
    const key = uniqueKey();
    const table = createPool();
    await table.query("create table inside (n int not null)");
    await table.query("insert into inside values (0)");
    const start = () => Child.start("permits.mjs", { args: [key, "2", "6"], env });
    await using one = start();
    await using two = start();
    await using three = start();
    const children = [one, two, three];
    for (const child of children) expect(await child.exited, child.stderr).toEqual({ code: 0, signal: null });
    const inside = children.flatMap(({ messages }) => messages.map((message) => Number(message["inside"])));
    expect(inside).toHaveLength(36);
    expect(Math.max(...inside)).toBe(2);
    await table.query("drop table inside");
  });

  test("SIGKILL of a holder frees its permit", async () => {
    const key = uniqueKey();
    await using fleet = lockers(1);
    const [semaphore] = fleet.semaphores(key, 1) as [Semaphore];
    await using child = Child.start("permits.mjs", { args: [key, "1", "keep"], env });
    await child.message(({ has }) => has !== undefined);
    const waiting = semaphore.acquire({ wait: true });
    await inLine(key, 1);
    child.signal("SIGKILL");
    await (await waiting).release();
  });

  test("if the next in line is killed, the one behind it comes next", async () => {
    const key = uniqueKey();
    await using fleet = lockers(2);
    const [holder, other] = fleet.semaphores(key, 1) as [Semaphore, Semaphore];
    const permit = await holder.acquire();
    await using child = Child.start("permits.mjs", { args: [key, "1", "keep"], env });
    await inLine(key, 1);
    const waiting = other.acquire({ wait: true });
    await inLine(key, 2);
    child.signal("SIGKILL");
    await inLine(key, 1);
    await permit.release();
    await (await waiting).release();
    expect(child.messages).toEqual([]);
  });

  test("waiters are served in order, and nobody overtakes them", async () => {
    const key = uniqueKey();
    await using fleet = lockers(4);
    const [holder, ...others] = fleet.semaphores(key, 2) as [Semaphore, ...Semaphore[]];
    const held = [await holder.acquire(), await holder.acquire()];
    const served: string[] = [];
    const waits: Promise<Lock>[] = [];
    for (const [which, other] of others.entries()) {
      const asked = other.acquire({ wait: true });
      waits.push(asked);
      void asked.then(() => served.push(`waiter ${which}`));
      await inLine(key, which + 1);
    }
    for (const [at, permit] of held.entries()) {
      await permit.release();
      // The permit that has just become free is for the first in line.
      expect(await holder.tryAcquire()).toBeUndefined();
      await until(() => served.length === at + 1);
    }
    await (await waits[0])?.release();
    await until(() => served.length === 3);
    expect(served).toEqual(["waiter 0", "waiter 1", "waiter 2"]);
    for (const wait of waits.slice(1)) await (await wait).release();
  });

  test("a process that always wants a permit lets others have theirs", async () => {
    const key = uniqueKey();
    await using fleet = lockers(2);
    const [busy, other] = fleet.semaphores(key, 1) as [Semaphore, Semaphore];
    let turns = 0;
    let isServed = false;
    const callers = [1, 2, 3].map(async () => {
      while (!isServed && turns < 500) {
        await busy.withPermit(() => nextTurn(), { wait: true });
        turns += 1;
      }
    });
    await until(() => turns > 0);
    const permit = await other.acquire({ wait: true });
    isServed = true;
    await permit.release();
    await Promise.all(callers);
    expect(turns).toBeLessThan(500);
  });

  test("a fleet that waits has a session for each process, and one process that looks", async () => {
    const key = uniqueKey();
    await using fleet = lockers(4);
    const [holder, ...others] = fleet.semaphores(key, 2) as [Semaphore, ...Semaphore[]];
    const held = [await holder.acquire(), await holder.acquire()];
    const stop = new AbortController();
    const waits = others.flatMap((other) =>
      Array.from({ length: 25 }, () => refused(other.acquire({ wait: true, signal: stop.signal }))),
    );
    // The next in line of a process, and the one behind it.
    await inLine(key, 4);
    const locks = await turnstileOf(key);
    expect(locks.filter(({ granted }) => granted)).toHaveLength(1);
    expect(new Set(locks.map(({ pid }) => pid)).size).toBe(4);
    stop.abort("enough");
    expect(new Set(await Promise.all(waits))).toEqual(new Set(["enough"]));
    for (const permit of held) await permit.release();
    await until(async () => (await locksOf(key)).length === 0);
  });

  test("a wait that is over says so, and leaves nothing behind", async () => {
    const key = uniqueKey();
    await using fleet = lockers(2);
    const [holder, other] = fleet.semaphores(key, 1) as [Semaphore, Semaphore];
    const permit = await holder.acquire();
    expect(await refused(other.acquire({ wait: 50 }))).toMatchObject({
      reason: "wait-timeout",
      waited: 50,
      key,
    });
    expect(await other.tryAcquire({ wait: 50 })).toBeUndefined();
    await until(async () => (await locksOf(key)).length === 1);
    await permit.release();
    expect(await other.withPermit(() => "done", { wait: 1 })).toBe("done");
  });

  test("an abort at whatever moment leaves all permits to others", async () => {
    const key = uniqueKey();
    await using fleet = lockers(2);
    const [semaphore, other] = fleet.semaphores(key, 1) as [Semaphore, Semaphore];
    await (await semaphore.acquire()).release();
    const outcomes = new Set<string>();
    for (let turns = 0; turns < 25; turns += 1) {
      const stop = new AbortController();
      const asked = semaphore.acquire({ wait: true, signal: stop.signal });
      for (let turn = 0; turn < turns; turn += 1) await nextTurn();
      stop.abort("left");
      const permit = await asked.catch((error: unknown) => error);
      outcomes.add(permit === "left" ? "left" : "granted");
      if (permit !== "left") await (permit as Lock).release();
      const next = await other.acquire({ wait: "10s" });
      await next.release();
    }
    expect(outcomes.has("left")).toBe(true);
    expect(await refused(semaphore.acquire({ signal: AbortSignal.abort("before") }))).toBe("before");
  });

  test("an aborted waiter, in line or next, leaves its place to the one behind", async () => {
    const key = uniqueKey();
    await using fleet = lockers(4);
    const [holder, next, second, third] = fleet.semaphores(key, 1) as Semaphore[] & { length: 4 };
    const permit = await holder?.acquire();
    const stop = new AbortController();
    const leaving: Promise<unknown>[] = [];
    for (const [at, each] of [next, second].entries()) {
      leaving.push(refused(each?.acquire({ wait: true, signal: stop.signal }) as Promise<Lock>));
      await inLine(key, at + 1);
    }
    const staying = third?.acquire({ wait: true });
    await inLine(key, 3);
    stop.abort("left");
    expect(await Promise.all(leaving)).toEqual(["left", "left"]);
    await inLine(key, 1);
    await permit?.release();
    await (await staying)?.release();
  });

  test("close frees permits, ends those who wait, and leaves nothing", async () => {
    const key = uniqueKey();
    await using fleet = lockers(2);
    const [closing, other] = fleet.all as [PostgresLocker, PostgresLocker];
    const semaphore = closing.semaphore(key, 1);
    const permit = await semaphore.acquire();
    const waits = [1, 2, 3].map(() => refused(semaphore.acquire({ wait: true })));
    // One is next in line, and another waits behind it.
    await inLine(key, 2);
    await closing.close();
    for (const outcome of await Promise.all(waits)) expect(outcome).toBeInstanceOf(LockerClosedError);
    expect(permit.held).toBe(false);
    expect(permit.signal.reason).toBeInstanceOf(LockLostError);
    expect(await refused(semaphore.acquire())).toBeInstanceOf(LockerClosedError);
    await (await other.semaphore(key, 1).acquire()).release();
  });

  test("a close at whatever moment of an acquire leaves nothing", async () => {
    const key = uniqueKey();
    await using others = lockers(1);
    const [other] = others.semaphores(key, 1) as [Semaphore];
    for (let turns = 0; turns < 20; turns += 2) {
      await using fleet = lockers(1);
      const [locker] = fleet.all as [PostgresLocker];
      // Does what a locker does once, with its first lock.
      await (await locker.acquire(uniqueKey())).release();
      const asked = refused(locker.semaphore(key, 1).acquire({ wait: true }));
      for (let turn = 0; turn < turns; turn += 1) await nextTurn();
      await locker.close();
      const outcome = await asked;
      expect(outcome === "granted" || outcome instanceof LockerClosedError, String(outcome)).toBe(true);
      await (await other.acquire()).release();
    }
  });

  test("a session that ends takes its permit, and tells the holder", async () => {
    const key = uniqueKey();
    await using fleet = lockers(2);
    const [semaphore, other] = fleet.semaphores(key, 1) as [Semaphore, Semaphore];
    let isWorking = false;
    const working = refused(
      semaphore.withPermit(() => {
        isWorking = true;
        return new Promise(() => {});
      }),
    );
    await until(() => isWorking);
    const waiting = other.acquire({ wait: true });
    await inLine(key, 1);
    const [place] = (await locksOf(key)).filter(({ id }) => id !== blockOf(key));
    await onServer("select pg_terminate_backend($1)", [place?.pid]);
    expect(await working).toBeInstanceOf(LockLostError);
    await (await waiting).release();
  });

  test("the next in line waits on if it loses its session", async () => {
    const key = uniqueKey();
    await using fleet = lockers(2);
    const [holder, other] = fleet.semaphores(key, 1) as [Semaphore, Semaphore];
    const permit = await holder.acquire();
    const waiting = other.acquire({ wait: true });
    await inLine(key, 1);
    const [turn] = await turnstileOf(key);
    await onServer("select pg_terminate_backend($1)", [turn?.pid]);
    await until(async () => (await turnstileOf(key)).some(({ pid }) => pid !== turn?.pid));
    await permit.release();
    await (await waiting).release();
  });

  test("a waiter that is stopped while it is next loses its place", async () => {
    const key = uniqueKey();
    await using fleet = lockers(2);
    const [holder, other] = fleet.semaphores(key, 1) as [Semaphore, Semaphore];
    const permit = await holder.acquire();
    await using stopped = Child.start("permits.mjs", {
      args: [key, "1", "keep"],
      env: { ...env, TTL: "1s" },
    });
    await inLine(key, 1);
    // Once it is the one that looks, and not in the middle of taking the turnstile.
    await until(async () => (await turnstileOf(key)).every(({ granted }) => granted));
    stopped.signal("SIGSTOP");
    await permit.release();
    await (await other.acquire({ wait: "15s" })).release();
    stopped.signal("SIGCONT");
    await stopped.message(({ has }) => has !== undefined);
  });

  test("a wait outlives an outage of the database, wherever it stands", async () => {
    const key = uniqueKey();
    await using fleet = lockers(3);
    const [holder, next, behind] = fleet.semaphores(key, 1) as [Semaphore, Semaphore, Semaphore];
    const held = await holder.acquire();
    const waits = [];
    for (const [at, each] of [next, behind].entries()) {
      waits.push(each.withPermit(() => at, { wait: true }));
      await inLine(key, at + 1);
    }
    const database = new URL(databaseUrl()).pathname.slice(1);
    await onServer(`alter database ${database} with allow_connections false`);
    try {
      await onServer("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", [database]);
      await until(() => held.signal.aborted);
    } finally {
      await onServer(`alter database ${database} with allow_connections true`);
    }
    expect(await Promise.all(waits)).toEqual([0, 1]);
  });

  test("a permit expires as a lock does, and is free then if the server ends it", async () => {
    const key = uniqueKey();
    await using fleet = lockers(2, { ttlEnforcement: "server" });
    const [semaphore, other] = fleet.semaphores(key, 1) as [Semaphore, Semaphore];
    const permit = await semaphore.acquire({ ttl: "300ms" });
    const next = await other.acquire({ wait: true, ttl: "10s" });
    expect(permit.held).toBe(false);
    expect(permit.expired).toBe(true);
    expect(permit.signal.reason).toBeInstanceOf(LockExpiredError);
    await next.refresh("20s");
    expect(next.ttl).toBe(20_000);
    await next.release();
  });

  test("a caller with another number of permits than the holders' is told both", async () => {
    const key = uniqueKey();
    await using fleet = lockers(2);
    const [one, other] = fleet.all as [PostgresLocker, PostgresLocker];
    const permit = await one.semaphore(key, 2).acquire();
    for (const [locker, options] of [
      [other, {}],
      [other, { wait: true }],
      [one, {}],
    ] as const) {
      const error = await refused(locker.semaphore(key, 3).acquire(options));
      expect(error).toBeInstanceOf(InvalidConfigError);
      expect(error).toMatchObject({ field: "permits" });
      expect(String(error)).toMatch(/`permits` to be 2, .*got `3`/);
    }
    await permit.release();
    // Nobody holds a permit any more.
    await (await other.semaphore(key, 3).acquire()).release();
  });

  test("of two numbers that come at the same time, never both have a permit", async () => {
    const key = uniqueKey();
    await using fleet = lockers(2);
    const [one, other] = fleet.all as [PostgresLocker, PostgresLocker];
    let both = 0;
    const told = new Set<string>();
    for (let round = 0; round < 15; round += 1) {
      const two = one.semaphore(key, 2);
      const three = other.semaphore(key, 3);
      const asked = await Promise.allSettled([two.acquire(), two.acquire(), three.acquire()]);
      const [first, second, last] = asked.map((each) => each.status === "fulfilled");
      if ((first || second) && last) both += 1;
      for (const each of asked) {
        if (each.status === "rejected") told.add(String(each.reason));
        else await each.value.release();
      }
      await until(async () => (await locksOf(key)).length === 0);
    }
    expect(both).toBe(0);
    expect(told.size).toBeGreaterThan(0);
    for (const sentence of told) expect(sentence).toMatch(/`permits` to be [23], /);
  });

  test("a wait for what the functions around it hold is refused at once", async () => {
    const key = uniqueKey();
    await using fleet = lockers(1);
    const [semaphore] = fleet.semaphores(key, 2) as [Semaphore];
    const outcome = await semaphore.withPermit(() =>
      semaphore.withPermit(() => refused(semaphore.acquire({ wait: true }))),
    );
    expect(outcome).toMatchObject({ reason: "held" });
    expect(outcome).toBeInstanceOf(LockNotAcquiredError);
  });

  test.skipIf(sessions === "dedicated")("a thousand permits can be held at the same time", async () => {
    const key = uniqueKey();
    await using fleet = lockers(1);
    const [semaphore] = fleet.semaphores(key, 1_000) as [Semaphore];
    const permits = await Promise.all(Array.from({ length: 1_000 }, () => semaphore.acquire()));
    expect(new Set(permits.map(({ id }) => id)).size).toBe(1_000);
    expect(await semaphore.tryAcquire()).toBeUndefined();
    await Promise.all(permits.map((permit) => permit.release()));
  });

  test("a bad number of permits, key or option is refused by name", async () => {
    await using fleet = lockers(1);
    const [locker] = fleet.all as [PostgresLocker];
    for (const permits of [0, -1, 1.5, 1_001, Number.NaN, "3", undefined, null]) {
      expect(() => locker.semaphore("key", permits as number)).toThrow(
        /`permits` to be a whole number from 1 to 1000/,
      );
    }
    expect(() => locker.semaphore("", 1)).toThrow(/`key`/);
    expect(() => locker.semaphore("\ud800", 1)).toThrow(/`key`/);
    const semaphore = locker.semaphore(uniqueKey(), 1);
    for (const [options, field] of [
      [{ mode: "shared" }, "mode"],
      [{ fencing: true }, "fencing"],
      [{ permits: 2 }, "permits"],
      [{ wait: -1 }, "wait"],
      [{ signal: {} }, "signal"],
      [null, "options"],
    ] as const) {
      const error = await refused(semaphore.acquire(options as never));
      expect(error).toMatchObject({ code: "INVALID_CONFIG", field });
    }
    expect(await refused(semaphore.acquire({ ttl: 0 }))).toMatchObject({ code: "INVALID_TTL" });
    expect(await refused(semaphore.withPermit(undefined as never))).toMatchObject({ field: "fn" });
    expect(await refused(semaphore.tryWithPermit(undefined as never))).toMatchObject({ field: "fn" });
  });
});
