import { once } from "node:events";
import { setImmediate as nextTurn } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import {
  type ElectOptions,
  type Leader,
  type Lock,
  LockExpiredError,
  type Locker,
  LockerClosedError,
  LockLostError,
  lockId,
  MemoryLocker,
  type MemoryLockerOptions,
} from "../../src/index.ts";
import { Child } from "../support/child.ts";
import {
  advisoryLocks,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
  urlWith,
} from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

const refused = (asked: Promise<unknown>): Promise<unknown> =>
  asked.then(
    () => "resolved",
    (error: unknown) => error,
  );

/** The event loop stands still: no timer and no socket can tell it anything. */
const standStill = (milliseconds: number): void =>
  void Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);

const enforcements = ["client", "server"] as const;

/** A candidate that leads until it is told to end or to return. */
class Candidate {
  readonly stop = new AbortController();
  readonly terms: Array<{
    lock: Lock;
    signal: AbortSignal;
    return: () => void;
    throw: (error: unknown) => void;
  }> = [];
  readonly ended: Promise<unknown>;
  isAtWork = false;

  constructor(locker: Locker, key: string, options: Partial<ElectOptions> = {}) {
    const onElected = async (lock: Lock, { signal }: { signal: AbortSignal }): Promise<void> => {
      expect(this.isAtWork).toBe(false);
      this.isAtWork = true;
      try {
        await new Promise<void>((resolve, reject) => {
          this.terms.push({ lock, signal, return: resolve, throw: reject });
          signal.addEventListener("abort", () => reject(signal.reason));
        });
      } finally {
        this.isAtWork = false;
      }
    };
    this.ended = refused(
      locker.elect(key, { onElected, signal: this.stop.signal, retryPeriod: "20ms", ...options }),
    );
  }

  async term(number: number) {
    await until(() => this.terms.length >= number);
    return this.terms[number - 1] as (typeof this.terms)[number];
  }
}

describe.each([
  ...sessionModes.flatMap((sessions) =>
    enforcements.map(
      (ttlEnforcement) =>
        [
          `PostgresLocker of ${sessions} sessions`,
          ttlEnforcement,
          (options: MemoryLockerOptions = {}) => createLocker({ sessions, ttlEnforcement, ...options }),
        ] as const,
    ),
  ),
  ...enforcements.map(
    (ttlEnforcement) =>
      [
        "MemoryLocker",
        ttlEnforcement,
        (options: MemoryLockerOptions = {}) => new MemoryLocker({ ttlEnforcement, ...options }),
      ] as const,
  ),
])("with a %s (%s)", (_, __, create) => {
  test("one leads at a time; a leader that returns resigns, and stands again", async () => {
    await using locker = create();
    const key = uniqueKey();
    const one = new Candidate(locker, key);
    const first = await one.term(1);
    expect(first.lock).toMatchObject({ key, held: true, id: lockId(0, key) });
    const other = new Candidate(locker, key);
    await nextTurn();
    expect(other.terms).toHaveLength(0);
    first.return();
    const second = await other.term(1);
    expect(first.lock.held).toBe(false);
    expect(first.signal.aborted).toBe(false);
    expect(one.terms).toHaveLength(1);
    second.return();
    await one.term(2);
    one.stop.abort();
    other.stop.abort();
    expect(await Promise.all([one.ended, other.ended])).toEqual(["resolved", "resolved"]);
    // One of them was told to end while it waited.
    expect(await locker.withLock(key, () => "free", { wait: "5s" })).toBe("free");
  });

  test("its signal stops the leader, and the lock is released when its work has ended", async () => {
    await using locker = create();
    const key = uniqueKey();
    let finish = (): void => {};
    let told: unknown;
    let begin = (): void => {};
    const elected = new Promise<void>((resolve) => {
      begin = resolve;
    });
    const one = new Candidate(locker, key, {
      onElected: async (_lock, { signal }) => {
        begin();
        await once(signal, "abort");
        told = signal.reason;
        await new Promise<void>((resolve) => {
          finish = resolve;
        });
      },
    });
    await elected;
    one.stop.abort("enough");
    await until(() => told !== undefined);
    expect(told).toBe("enough");
    expect(await locker.tryAcquire(key)).toBeUndefined();
    finish();
    expect(await one.ended).toBe("resolved");
    await (await locker.acquire(key)).release();
    const before = new Candidate(locker, key, { signal: AbortSignal.abort("before") });
    expect(await before.ended).toBe("resolved");
    expect(before.terms).toHaveLength(0);
  });

  test("a candidate that is told to end while it waits leaves without a trace", async () => {
    await using locker = create();
    const key = uniqueKey();
    const lock = await locker.acquire(key);
    const one = new Candidate(locker, key);
    await nextTurn();
    one.stop.abort();
    expect(await one.ended).toBe("resolved");
    await lock.release();
    expect(await locker.withLock(key, () => "free", { wait: "5s" })).toBe("free");
    expect(one.terms).toHaveLength(0);
  });

  test("an error of onElected ends it, once the lock has been released", async () => {
    await using locker = create();
    const key = uniqueKey();
    const error = new Error("of the work");
    const one = new Candidate(locker, key);
    (await one.term(1)).throw(error);
    expect(await one.ended).toBe(error);
    await (await locker.acquire(key)).release();
    const atOnce = locker.elect(key, {
      onElected: () => {
        throw error;
      },
    });
    expect(await refused(atOnce)).toBe(error);
    await (await locker.acquire(key)).release();
  });

  test("onElected may release the lock itself", async () => {
    await using locker = create();
    const one = new Candidate(locker, uniqueKey());
    const first = await one.term(1);
    await first.lock.release();
    first.return();
    const second = await one.term(2);
    await second.lock.release();
    second.throw("of itself");
    expect(await one.ended).toBe("of itself");
  });

  test("close() ends it, with and without work under way", async () => {
    const locker = create();
    const key = uniqueKey();
    const leader = new Candidate(locker, key);
    const term = await leader.term(1);
    const waiting = new Candidate(locker, key);
    await locker.close();
    expect(await Promise.all([leader.ended, waiting.ended])).toEqual(["resolved", "resolved"]);
    expect(term.signal.aborted).toBe(true);
    expect(await refused(locker.elect(key, { onElected: () => {} }))).toBeInstanceOf(LockerClosedError);
  });

  test("a drain tells the leader to end first, and waits no longer than that takes", async () => {
    const locker = create();
    const leader = new Candidate(locker, uniqueKey());
    const { signal, lock } = await leader.term(1);
    let heldWhenTold: boolean | undefined;
    signal.addEventListener("abort", () => {
      heldWhenTold = lock.held;
    });
    await locker.close({ drain: "1h" });
    expect(heldWhenTold).toBe(true);
    expect(signal.reason).toBeInstanceOf(LockerClosedError);
    expect(lock.signal.aborted).toBe(false);
    expect(await leader.ended).toBe("resolved");
  });

  test("inside onElected the lock is known to be held", async () => {
    await using locker = create();
    const key = uniqueKey();
    const stop = new AbortController();
    let outcome: unknown;
    await locker.elect(key, {
      signal: stop.signal,
      onElected: async () => {
        outcome = await refused(locker.acquire(key, { wait: true }));
        stop.abort();
      },
    });
    expect(outcome).toMatchObject({ code: "LOCK_NOT_ACQUIRED", reason: "held" });
  });

  test("each new leader is reported once", async () => {
    await using locker = create();
    // Does what a locker does once, with its first lock.
    await (await locker.acquire(uniqueKey())).release();
    const key = uniqueKey();
    const seenByOne: Leader[] = [];
    const seenByOther: Leader[] = [];
    const one = new Candidate(locker, key, { onNewLeader: (leader) => seenByOne.push(leader) });
    const first = await one.term(1);
    const other = new Candidate(locker, key, {
      onNewLeader: (leader) => {
        seenByOther.push(leader);
        throw new Error("of the listener");
      },
    });
    await until(() => seenByOne.length === 1 && seenByOther.length === 1);
    expect(seenByOne).toMatchObject([{ isSelf: true }]);
    expect(seenByOther).toMatchObject([{ isSelf: false }]);
    first.return();
    await other.term(1);
    await until(() => seenByOther.length === 2 && seenByOne.length === 2);
    expect(seenByOther[1]).toMatchObject({ isSelf: true });
    expect(seenByOne[1]).toMatchObject({ isSelf: false });
    one.stop.abort();
    other.stop.abort();
    await Promise.all([one.ended, other.ended]);
  });

  test("an unknown option is refused by name", async () => {
    await using locker = create();
    const onElected = (): void => {};
    for (const [options, field] of [
      [undefined, "options"],
      [{}, "onElected"],
      [{ onElected: 1 }, "onElected"],
      [{ onElected, onNewLeader: 1 }, "onNewLeader"],
      [{ onElected, onnewleader: () => {} }, "onnewleader"],
      [{ onElected, wait: true }, "wait"],
      [{ onElected, signal: {} }, "signal"],
      [{ onElected, fencing: 1 }, "fencing"],
      [{ onElected, retryPeriod: 0 }, "retryPeriod"],
      [{ onElected, retryPeriod: "5" }, "retryPeriod"],
    ] as const) {
      const error = await refused(locker.elect(uniqueKey(), options as never));
      expect(error).toMatchObject({ code: "INVALID_CONFIG", field });
    }
    expect(await refused(locker.elect("", { onElected }))).toMatchObject({ code: "EMPTY_KEY" });
  });

  test("only a TTL that can be enforced will do, whatever the other locks may have", async () => {
    const invalid = { code: "INVALID_TTL" };
    await using locker = create();
    for (const ttl of [0, 0.1, "30d"]) {
      expect(await refused(locker.elect(uniqueKey(), { onElected: () => {}, ttl }))).toMatchObject(invalid);
    }
    const one = new Candidate(locker, uniqueKey(), { ttl: "20s" });
    const { lock } = await one.term(1);
    expect(await refused(lock.refresh("30d"))).toMatchObject(invalid);
    await lock.refresh("40s");
    expect(lock.ttl).toBe(40_000);
    one.stop.abort();
    await one.ended;
  });

  test("a leader that stands still for its TTL is replaced, whatever its work does then", async () => {
    await using locker = create();
    const key = uniqueKey();
    const stop = new AbortController();
    let finish = (): void => {};
    const work = new Promise<void>((resolve) => {
      finish = resolve;
    });
    let lost: Lock | undefined;
    const ended = locker.elect(key, {
      ttl: "400ms",
      signal: stop.signal,
      onElected: (lock) => {
        lost = lock;
        return work;
      },
    });
    await until(() => lost !== undefined);
    const other = new Candidate(locker, key);
    standStill(800);
    await other.term(1);
    expect(lost?.expired).toBe(true);
    expect(lost?.signal.reason).toBeInstanceOf(LockExpiredError);
    other.stop.abort();
    stop.abort();
    finish();
    await Promise.all([ended, other.ended]);
  });

  test("a leader's lock is reported as any lock is", async () => {
    await using locker = create();
    const key = uniqueKey();
    const told: string[] = [];
    for (const event of ["acquired", "released"] as const) {
      locker.on(event, (facts) => told.push(`${event} ${facts.key === key}`));
    }
    const one = new Candidate(locker, key);
    const { lock } = await one.term(1);
    expect(locker.stats().locks).toBe(1);
    expect(await locker.inspect(key)).toMatchObject({ held: true, heldHere: true, id: lock.id });
    one.stop.abort();
    await one.ended;
    expect(told).toEqual(["acquired true", "released true"]);
  });
});

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test("a leader whose session ends stands again when its work has ended", async () => {
    const key = uniqueKey();
    await using first = createLocker({ sessions, ttlEnforcement: "server" });
    await using second = createLocker({ sessions, ttlEnforcement: "server" });
    let finish = (): void => {};
    let terms = 0;
    const stop = new AbortController();
    const ended = first.elect(key, {
      signal: stop.signal,
      retryPeriod: "20ms",
      onElected: async (_lock, { signal }) => {
        terms += 1;
        await once(signal, "abort");
        if (terms > 1) return;
        await new Promise<void>((resolve) => {
          finish = resolve;
        });
        // As the work of a leader may do when its database has just gone.
        throw new Error("the connection is gone");
      },
    });
    await until(() => terms === 1);
    const other = new Candidate(second, key);
    await onServer("select pg_terminate_backend($1)", [(await holdersOf(lockId(0, key)))[0]]);
    const term = await other.term(1);
    term.return();
    // Its work has not ended, so it doesn't stand for election again.
    await other.term(2);
    expect(terms).toBe(1);
    finish();
    // It waits in the server, so it is next.
    await until(async () => (await advisoryLocks()).some(({ granted }) => !granted));
    (await other.term(2)).return();
    await until(() => terms === 2);
    stop.abort();
    other.stop.abort();
    await Promise.all([ended, other.ended]);
  });

  test.each(["at once", "after a wait"] as const)(
    "a leader that was elected %s is replaced if it is frozen, and learns it then",
    async (when) => {
      const key = uniqueKey();
      await using locker = createLocker({ sessions });
      const before = when === "after a wait" ? await locker.acquire(key) : undefined;
      await using child = Child.start("elect.mjs", {
        args: [key, JSON.stringify({ ttl: "2s", retryPeriod: "1h" })],
        env: { DATABASE_URL: databaseUrl(), SESSIONS: sessions },
      });
      if (before !== undefined) await until(async () => (await locker.inspect(key)).waiters.length === 1);
      await before?.release();
      await child.message(({ elected }) => elected !== undefined);
      child.signal("SIGSTOP");
      const other = new Candidate(locker, key);
      await other.term(1);
      child.signal("SIGCONT");
      const told = await child.message(({ ended }) => ended !== undefined);
      expect(told).toEqual({ ended: expect.stringMatching(/^LOCK_(EXPIRED|LOST)$/), held: false });
      expect(other.terms[0]?.lock.held).toBe(true);
      other.stop.abort();
      await other.ended;
      child.send({});
      expect(await child.exited).toEqual({ code: 0, signal: null });
    },
  );

  test("a leader that learns of the loss by asking ends its term as if it were told", async () => {
    const key = uniqueKey();
    await using locker = createLocker({ sessions, ttlEnforcement: "server" });
    const stop = new AbortController();
    const losses: unknown[] = [];
    const ended = locker.elect(key, {
      signal: stop.signal,
      retryPeriod: "20ms",
      ttl: "200ms",
      onElected: async (lock) => {
        if (losses.length > 0) return stop.abort();
        standStill(400);
        try {
          lock.assertHeld();
        } catch (error) {
          losses.push(error);
          throw error;
        }
      },
    });
    await ended;
    expect(losses).toMatchObject([{ code: "LOCK_NOT_HELD", reason: "expired" }]);
  });

  test("with a pool of one that is in use, it can still look at who leads", async () => {
    const key = uniqueKey();
    const pool = createPool({ max: 1 });
    await using locker = createLocker({ sessions, pool, ttlEnforcement: "server" });
    await using elsewhere = createLocker({ sessions });
    const lock = await elsewhere.acquire(key);
    const client = await pool.connect();
    const leaders: Leader[] = [];
    const one = new Candidate(locker, key, { onNewLeader: (leader) => leaders.push(leader) });
    await until(() => leaders.length === 1);
    const [pid] = await holdersOf(lock.id);
    expect(leaders).toEqual([
      { isSelf: false, pid, host: expect.any(String), sessionSince: expect.any(Date) },
    ]);
    await lock.release();
    await until(() => leaders.length === 2);
    expect(leaders[1]).toMatchObject({ isSelf: true, pid: (await holdersOf(lock.id))[0] });
    one.stop.abort();
    await one.ended;
    client.release();
  });

  test("a fault that waiting can't mend rejects", async () => {
    const pool = createPool({ connectionString: urlWith({ database: "there_is_none" }) });
    await using locker = createLocker({ sessions, pool });
    expect(await refused(locker.elect(uniqueKey(), { onElected: () => {} }))).toMatchObject({
      code: "DATABASE_ERROR",
      sqlState: "3D000",
    });
  });

  test("the reason of a term that ends by a loss is the loss", async () => {
    const key = uniqueKey();
    await using locker = createLocker({ sessions, ttlEnforcement: "server" });
    const one = new Candidate(locker, key);
    const { signal } = await one.term(1);
    await onServer("select pg_terminate_backend($1)", [(await holdersOf(lockId(0, key)))[0]]);
    await until(() => signal.aborted);
    expect(signal.reason).toBeInstanceOf(LockLostError);
    await one.term(2);
    one.stop.abort();
    await one.ended;
  });
});
