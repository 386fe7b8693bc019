import { setTimeout as delay } from "node:timers/promises";
import { inspect } from "node:util";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import {
  type Lock,
  LockLostError,
  lockId,
  MemoryLocker,
  type PermitOptions,
  type PostgresLocker,
} from "../../src/index.ts";
import { Child } from "../support/child.ts";
import { connect, databaseUrl, holdersOf, onServer, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

const isHeld = async (key: string): Promise<boolean> => (await holdersOf(lockId(0, key))).length > 0;
const refused = (asked: Promise<unknown>): Promise<unknown> =>
  asked.then(
    () => "done",
    (error: unknown) => error,
  );

type Enforcement = { readonly ttlEnforcement?: "client" | "server" };
const lockers = [
  ...sessionModes.map(
    (sessions) =>
      [
        `PostgresLocker of ${sessions} sessions`,
        (options: Enforcement = {}): PostgresLocker | MemoryLocker => createLocker({ sessions, ...options }),
      ] as const,
  ),
  [
    "MemoryLocker",
    (options: Enforcement = {}): PostgresLocker | MemoryLocker => new MemoryLocker(options),
  ] as const,
];

describe.each(lockers)("holdAtLeast of a %s", (_, create) => {
  test("a lock that is released early is held for everybody else until its time", async () => {
    await using locker = create();
    const key = uniqueKey();
    const before = performance.now();
    const lock = await locker.acquire(key, { holdAtLeast: "600ms" });
    await lock.release();
    expect(lock.held).toBe(false);
    expect(lock.expired).toBe(false);
    expect(() => lock.assertHeld()).toThrow(/has been released/);
    for (const again of [lock.release(), lock.refresh()]) {
      expect(await refused(again)).toMatchObject({ code: "LOCK_NOT_HELD", reason: "released" });
    }
    expect(await locker.tryAcquire(key)).toBeUndefined();
    const next = await locker.acquire(key, { wait: "10s" });
    // As promised, except for the millisecond by which timers may be early.
    expect(performance.now() - before).toBeGreaterThan(598);
    expect(lock.signal.aborted).toBe(false);
    await next.release();
  });

  test("the handle of a lock that is kept shows it as released", async () => {
    await using locker = create();
    const key = uniqueKey();
    const lock = await locker.acquire(key, { holdAtLeast: "1h" });
    expect(inspect(lock)).toMatch(/held: true/);
    await lock.release();
    expect(inspect(lock)).toMatch(/held: false,\s+expired: false/);
    expect(JSON.parse(JSON.stringify(lock))).toMatchObject({ key, held: false, expired: false });
    expect(lock.remaining).toBe(0);
    expect(locker.stats().locks).toBe(1);
  });

  test("a lock that is released later is free at once", async () => {
    await using locker = create();
    const key = uniqueKey();
    const lock = await locker.acquire(key, { holdAtLeast: 1 });
    await delay(2);
    await lock.release();
    const next = await locker.tryAcquire(key);
    expect(next?.held).toBe(true);
    await next?.release();
    expect(await refused(lock.release())).toMatchObject({ reason: "released" });
  });

  test("withLock returns at once, with what its function did", async () => {
    await using locker = create();
    const key = uniqueKey();
    const options = { holdAtLeast: "1h" };
    expect(await locker.withLock(key, () => 1, options)).toBe(1);
    expect(await locker.tryWithLock(key, () => 1)).toEqual({ acquired: false });
    const other = uniqueKey();
    const failed = locker.withLock(other, () => Promise.reject(new Error("of the function")), options);
    expect(await refused(failed)).toMatchObject({ message: "of the function" });
    expect(await locker.tryAcquire(other)).toBeUndefined();
    await using scoped = await locker.semaphore(key, 1).acquire(options);
    await scoped[Symbol.asyncDispose]();
    expect(await locker.semaphore(key, 1).tryAcquire()).toBeUndefined();
  });

  test("a released lock is refreshed until its time, and a held one expires as usual", async () => {
    await using locker = create();
    const key = uniqueKey();
    const lock = await locker.acquire(key, { ttl: 300, holdAtLeast: "1h" });
    await lock.release();
    const forgotten = await locker.acquire(uniqueKey(), { ttl: 300, holdAtLeast: "1h" });
    await until(() => forgotten.signal.aborted);
    expect(forgotten.expired).toBe(true);
    expect(await refused(forgotten.release())).toMatchObject({ reason: "expired" });
    await delay(400);
    expect(await locker.tryAcquire(key)).toBeUndefined();
    expect(lock.signal.aborted).toBe(false);
  });

  test("close() frees a kept lock at once, and a drain waits for it", async () => {
    const key = uniqueKey();
    const locker = create();
    const lock = await locker.acquire(key, { holdAtLeast: "1h" });
    await lock.release();
    await locker.close();
    expect(await isHeld(key)).toBe(false);
    expect(lock.signal.aborted).toBe(false);
    const draining = create();
    const before = performance.now();
    await draining.withLock(key, () => {}, { holdAtLeast: "500ms" });
    await draining.close({ drain: "10s" });
    expect(performance.now() - before).toBeGreaterThan(498);
    expect(await isHeld(key)).toBe(false);
  });

  test("a bad value is refused by name, and acquireAll has no such option", async () => {
    await using locker = create();
    for (const holdAtLeast of [-1, Number.NaN, Number.POSITIVE_INFINITY, "30", true, null]) {
      const error = await refused(locker.acquire(uniqueKey(), { holdAtLeast: holdAtLeast as never }));
      expect(error).toMatchObject({ code: "INVALID_CONFIG", field: "holdAtLeast" });
    }
    const error = await refused(locker.acquireAll([uniqueKey()], { holdAtLeast: 1 }));
    expect(error).toMatchObject({ code: "INVALID_CONFIG", field: "holdAtLeast" });
  });
});

test("with a caller's client it is refused, whichever call has both", async () => {
  const client = await connect();
  const key = uniqueKey();
  const never = (): never => expect.unreachable();
  for (const create of [() => createLocker(), () => new MemoryLocker()]) {
    await using locker = create();
    const options = { client, holdAtLeast: "3s" };
    for (const call of [
      locker.acquire(key, options),
      locker.tryAcquire(key, options),
      locker.withLock(key, never, options),
      locker.tryWithLock(key, never, options),
      locker.namespace("of").acquire(key, options),
      locker.acquireAll([key], options),
    ]) {
      expect(await refused(call)).toMatchObject({ code: "INVALID_CONFIG", field: "holdAtLeast" });
    }
    await expect(locker.acquire(key, options)).rejects.toThrow(/absent with `client`: the session is the/);
    expect(locker.stats().locks).toBe(0);
  }
  await using locker = createLocker();
  await locker.withLock(key, () => {}, { client, holdAtLeast: 0 });
  expect(await isHeld(key)).toBe(false);
});

const enforcements = ["client", "server"] as const;
const cases = lockers.flatMap(([name, create]) => enforcements.map((of) => [name, of, create] as const));

test.each(cases)("%s, TTLs of the %s: a stall changes nothing for what is kept", async (_, of, create) => {
  await using locker = create({ ttlEnforcement: of });
  const takers = [1, 2].flatMap(() => {
    const key = uniqueKey();
    const semaphore = locker.semaphore(key, 1);
    return [
      (options?: PermitOptions) => locker.tryAcquire(key, options),
      (options?: PermitOptions) => semaphore.tryAcquire(options),
    ];
  });
  // Opens the session, so that the TTL doesn't run meanwhile.
  for (const take of takers) await (await take())?.release();
  const before = performance.now();
  const kept = await Promise.all(
    takers.map((take, at) => take({ ttl: "2s", holdAtLeast: "4s", autoRefresh: at < 2 })),
  );
  const sessions: Array<Awaited<ReturnType<typeof sessionOf>>> = [];
  for (const lock of kept) sessions.push(await sessionOf(lock));
  await Promise.all(kept.map((lock) => lock?.release()));
  // A server that enforces TTLs is told to wait for longer.
  for (const session of of === "server" ? sessions : []) await session.isIdleAgain();
  block(2_500);
  await Promise.all(
    takers.map(async (take) => {
      let next = await take();
      for (; next === undefined; next = await take()) await delay(50);
      expect(performance.now() - before).toBeGreaterThan(3_998);
      await next.release();
    }),
  );
  expect(locker.stats().locks).toBe(0);
});

/** The session of a lock, as the server shows it; nothing for a lock in memory. */
async function sessionOf(lock: Lock | undefined): Promise<{ isIdleAgain(): Promise<void> }> {
  const [pid] = lock === undefined ? [] : await holdersOf(lock.id);
  const look = async () => {
    const text = "select state, state_change::text as since from pg_catalog.pg_stat_activity where pid = $1";
    return (await onServer<{ state: string; since: string }>(text, [pid]))[0];
  };
  const before = await look();
  const isIdleAgain = async (): Promise<void> => {
    if (before === undefined) return;
    let last = before;
    // What is said for several locks takes several statements, one right after the other.
    const isDone = async (): Promise<boolean> => {
      const now = await look();
      const isStill = now?.state === "idle" && now.since === last.since && now.since !== before.since;
      if (now !== undefined) last = now;
      return isStill;
    };
    await until(isDone, { interval: 50 });
  };
  return { isIdleAgain };
}

/** Keeps the event loop from running, as a long computation does. */
function block(milliseconds: number): void {
  for (const end = performance.now() + milliseconds; performance.now() < end; );
}

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test.each(["client", "server"] as const)(
    "a kept lock outlives its TTL in the server, with TTLs of the %s",
    async (ttlEnforcement) => {
      await using locker = createLocker({ sessions, ttlEnforcement });
      const key = uniqueKey();
      const lock = await locker.acquire(key, { ttl: 300, holdAtLeast: "1h" });
      const [session] = await holdersOf(lock.id);
      await lock.release();
      for (let looks = 0; looks < 8; looks += 1) {
        await delay(100);
        expect(await holdersOf(lock.id)).toEqual([session]);
      }
    },
  );

  test("a connection with a kept lock is not silent for longer than half a minute", async () => {
    await using locker = createLocker({ sessions, tellKeys: false });
    const lock = await locker.acquire(uniqueKey(), { holdAtLeast: "1h" });
    const session = await sessionOf(lock);
    vi.useFakeTimers({ toFake: ["setTimeout"] });
    await lock.release();
    vi.advanceTimersByTime(30_000);
    vi.useRealTimers();
    await session.isIdleAgain();
    expect(await holdersOf(lock.id)).toHaveLength(1);
  });

  test("the end of its session frees a kept lock, and nobody is told", async () => {
    await using locker = createLocker({ sessions });
    const key = uniqueKey();
    const kept: Lock = await locker.acquire(key, { holdAtLeast: "1h" });
    const told = new Promise((resolve) => kept.signal.addEventListener("abort", resolve));
    await kept.release();
    const holding = await locker.acquire(uniqueKey(), { holdAtLeast: "1h" });
    for (const lock of [kept, holding]) {
      await onServer("select pg_terminate_backend($1)", [(await holdersOf(lock.id))[0]]);
    }
    await until(() => holding.signal.aborted);
    expect(holding.signal.reason).toBeInstanceOf(LockLostError);
    await using next = await locker.acquire(key, { wait: "10s" });
    expect(next.held).toBe(true);
    expect(await Promise.race([told, "not told"])).toBe("not told");
  });

  test("a process lives on until the time has passed; a killed one frees the lock", async () => {
    const key = uniqueKey();
    const env = { DATABASE_URL: databaseUrl(), SESSIONS: sessions };
    await using child = Child.start("hold-at-least.mjs", { args: [key, "1500ms"], env });
    await child.message(({ released }) => released === true);
    expect(await isHeld(key)).toBe(true);
    expect(await child.exited, child.stderr).toEqual({ code: 0, signal: null });
    expect(child.messages.at(-1)).toEqual({ after: expect.any(Number) });
    expect(Number(child.messages.at(-1)?.["after"])).toBeGreaterThan(1_498);
    await until(async () => !(await isHeld(key)));
    await using killed = Child.start("hold-at-least.mjs", { args: [key, "1h"], env });
    await killed.message(({ released }) => released === true);
    expect(await isHeld(key)).toBe(true);
    killed.signal("SIGKILL");
    await until(async () => !(await isHeld(key)));
  });
});

test("a meter that closes the locker at an early release leaves no timer", async () => {
  vi.useFakeTimers();
  onTestFinished(() => void vi.useRealTimers());
  const instrument = { add: (by: number) => void (by === -1 && locker.close()), record() {} };
  const meter = { createCounter: () => instrument, createUpDownCounter: () => instrument };
  const meterProvider = { getMeter: () => ({ ...meter, createHistogram: () => instrument }) } as never;
  const locker: MemoryLocker = new MemoryLocker({ meterProvider });
  await locker.withLock(uniqueKey(), () => {}, { holdAtLeast: "1h" });
  await locker.close();
  expect(vi.getTimerCount()).toBe(0);
});
