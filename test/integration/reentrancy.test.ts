import { AsyncResource } from "node:async_hooks";
import { createRequire } from "node:module";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { inspect } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import {
  InvalidConfigError,
  type Lock,
  LockerClosedError,
  LockLostError,
  LockNotAcquiredError,
  LockNotHeldError,
} from "../../src/index.ts";
import { holdersOf, onServer, uniqueKey } from "../support/database.ts";
import { eachLocker } from "../support/each-locker.ts";
import { InstalledPackage } from "../support/installed-package.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

const never = (): never => expect.unreachable();

describe.each(eachLocker)("%s: inside the function of withLock, without `reentrant`,", (_, create) => {
  test("a bounded wait waits, and its error hints at re-entrancy", async () => {
    await using locker = create();
    const key = uniqueKey();
    await locker.withLock(key, async () => {
      await expect(locker.withLock(key, never, { wait: "30ms" })).rejects.toMatchObject({
        reason: "wait-timeout",
        waited: 30,
        message: expect.stringMatching(/by the `withLock` around this call.*`reentrant: true`/),
      });
      expect(await locker.tryAcquire(key, { wait: "10ms" })).toBeUndefined();
    });
  });

  test("a wait without a bound is refused at once, and so is no wait", async () => {
    await using locker = create();
    const key = uniqueKey();
    await locker.withLock(key, async () => {
      for (const wait of [true, 0] as const) {
        const error = await locker.acquire(key, { wait }).catch((reason: unknown) => reason);
        expect(error).toMatchObject({
          reason: "held",
          message: expect.stringContaining("`reentrant: true`"),
        });
      }
    });
  });

  test("a wait goes on when that function has ended", async () => {
    await using locker = create();
    const key = uniqueKey();
    const { later } = await locker.withLock(key, async () => ({
      later: locker.withLock(key, () => "then", { wait: "10s" }),
    }));
    expect(await later).toBe("then");
  });

  test("a timeout after that function has ended doesn't mention it", async () => {
    await using locker = create();
    const key = uniqueKey();
    const { later } = await locker.withLock(key, async () => ({
      later: locker.withLock(key, never, { wait: "200ms" }).catch((reason: Error) => reason.message),
    }));
    void later;
    // Waiters are served in order: it gets the lock, and its function throws.
    expect(await later).not.toContain("reentrant");
  });
});

/** The message of a call that is refused, after the key. */
const because = (call: Promise<unknown>): Promise<string> =>
  call.then(never, ({ message }: Error) => message.replace(/^.*not acquired: /, ""));
const hint = ", unless `reentrant: true` says so";

describe.each(eachLocker)("%s: an error names what is around the call", (_, create) => {
  test.each(["withLock", "tryWithLock", "withLocks"] as const)("%s, which can be shared", async (by) => {
    await using locker = create();
    const key = uniqueKey();
    const inside = async (): Promise<void> => {
      const text = `the \`${by}\` around this call holds it, and a lock is not re-entrant`;
      expect(await because(locker.acquire(key))).toBe(text + hint);
      expect(await because(locker.withLocks([key], never, { wait: true }))).toBe(text + hint);
      const late = `still held after 20 ms, by the \`${by}\` around this call; a lock is not re-entrant`;
      expect(await because(locker.withLock(key, never, { wait: 20 }))).toBe(late + hint);
      expect(await because(locker.withLocks([uniqueKey(), key], never, { wait: 20 }))).toBe(late + hint);
      expect(await because(locker.acquireAll([uniqueKey(), key], { wait: 20 }))).toBe(late + hint);
      // What has no such option gets no such advice.
      expect(await because(locker.elect(key, { onElected: never }))).toBe(text);
    };
    if (by === "withLocks") await locker.withLocks([key], inside);
    else await locker[by](key, inside);
  });

  test("onElected, which can't", async () => {
    await using locker = create();
    const key = uniqueKey();
    const stop = new AbortController();
    const { signal } = stop;
    const told: string[] = [];
    const onElected = async (): Promise<void> => {
      for (const reentrant of [true, false])
        told.push(await because(locker.acquire(key, { reentrant, wait: true })));
      told.push(await because(locker.acquire(key, { wait: 20 })));
      stop.abort();
    };
    await locker.elect(key, { onElected, signal });
    const text = "the `onElected` around this call holds it, and a lock is not re-entrant";
    expect(told).toEqual([
      text,
      text,
      "still held after 20 ms, by the `onElected` around this call; a lock is not re-entrant",
    ]);
  });

  test("withPermit, which has no such option", async () => {
    await using locker = create();
    const semaphore = locker.semaphore(uniqueKey(), 1);
    await semaphore.withPermit(async () => {
      for (const wait of [0, "1m", true] as const) {
        expect(await because(semaphore.acquire({ wait }))).toBe(
          "the functions of `withPermit` around this call hold all the permits",
        );
      }
    });
  });
});

describe.each(eachLocker)("%s: with `reentrant`,", (_, create) => {
  const reentrant = true;

  test("a call inside shares the lock, and the outer call releases it", async () => {
    await using locker = create();
    const key = uniqueKey();
    await locker.withLock(key, async (outer) => {
      const inner = await locker.withLock(
        key,
        (lock) => {
          expect(lock).toMatchObject({ key, id: outer.id, ttl: outer.ttl, held: true, expired: false });
          expect(lock.expiresAt).toEqual(outer.expiresAt);
          expect(lock.remaining).toBeGreaterThan(0);
          lock.assertHeld();
          return lock;
        },
        { reentrant },
      );
      expect(inner.held).toBe(false);
      expect(inner.remaining).toBe(0);
      expect(inner.signal.aborted).toBe(false);
      expect(outer.held).toBe(true);
      expect(await locker.isHeld(key)).toBe(true);
    });
    expect(await locker.isHeld(key)).toBe(false);
  });

  test("deeper calls share it, too, and so do tryWithLock and wrapWithLock", async () => {
    await using locker = create();
    const key = uniqueKey();
    const countDown = locker.wrapWithLock(
      key,
      async (from: number): Promise<number> => {
        await new Promise(setImmediate);
        return from === 0 ? 0 : 1 + (await countDown(from - 1));
      },
      { reentrant },
    );
    expect(await countDown(5)).toBe(5);
    await locker.withLock(key, async () => {
      expect(await locker.tryWithLock(key, () => 1, { reentrant })).toEqual({ acquired: true, value: 1 });
    });
  });

  test("a call outside takes the lock, and is refused it, as without the option", async () => {
    await using locker = create();
    const key = uniqueKey();
    const lock = await locker.acquire(key, { reentrant });
    await expect(locker.acquire(key, { reentrant })).rejects.toMatchObject({ reason: "held" });
    expect(await locker.tryAcquire(key, { reentrant, wait: "10ms" })).toBeUndefined();
    await lock.release();
    expect(await locker.isHeld(key)).toBe(false);
  });

  test("a lock of another key, or of another locker, is another lock", async () => {
    await using locker = create();
    await using other = createLocker();
    const [key, another] = [uniqueKey(), uniqueKey()];
    await locker.withLock(key, async () => {
      await locker.withLock(another, async ({ id }) => expect(id).toBeTypeOf("bigint"), { reentrant });
      expect(await locker.isHeld(another)).toBe(false);
      await other.withLock(another, (lock) => expect(lock.held).toBe(true), { reentrant });
    });
  });

  test("acquire shares it, too, with a handle of its own, and shows the outer lock", async () => {
    await using locker = create();
    const key = uniqueKey();
    await locker.withLock(key, async (outer) => {
      const inner = await locker.acquire(key, { reentrant });
      await inner.refresh("1h");
      expect(outer.ttl).toBe(3_600_000);
      expect([inspect(inner), JSON.stringify(inner)]).toEqual([inspect(outer), JSON.stringify(outer)]);
      await inner.release();
      expect(inner.held).toBe(false);
      expect(inspect(inner)).toContain("held: false");
      expect(JSON.parse(JSON.stringify(inner))).toMatchObject({ key, held: false, expired: false });
      await expect(inner.release()).rejects.toMatchObject({ reason: "released" });
      await expect(inner.refresh()).rejects.toThrow(LockNotHeldError);
      expect(() => inner.assertHeld()).toThrow(LockNotHeldError);
      await inner[Symbol.asyncDispose]();
      expect(outer.held).toBe(true);
    });
  });

  test("several keys: those that are held around it, and those that aren't", async () => {
    await using locker = create();
    const [one, two, three] = [uniqueKey(), uniqueKey(), uniqueKey()];
    await locker.withLocks([one, two], async () => {
      await locker.withLocks(
        [two, three],
        async (inner) => {
          expect(inner.held).toBe(true);
          await expect(locker.acquire(three)).rejects.toThrow(LockNotAcquiredError);
        },
        { reentrant },
      );
      expect(await locker.isHeld(two)).toBe(true);
      expect(await locker.isHeld(three)).toBe(false);
    });
  });

  test("calls of one function exclude each other, in order; readers don't", async () => {
    await using locker = create();
    const key = uniqueKey();
    await locker.withLock(key, async () => {
      const order: string[] = [];
      let isInside = false;
      const turn = (name: string) =>
        locker.withLock(
          key,
          async () => {
            expect(isInside).toBe(false);
            isInside = true;
            order.push(name);
            await new Promise(setImmediate);
            isInside = false;
          },
          { reentrant, wait: true },
        );
      await Promise.all([turn("a"), turn("b"), turn("c")]);
      expect(order).toEqual(["a", "b", "c"]);
      const first = await locker.acquire(key, { reentrant, mode: "shared" });
      const second = await locker.acquire(key, { reentrant, mode: "shared" });
      await expect(locker.acquire(key, { reentrant })).rejects.toMatchObject({ reason: "held" });
      await expect(locker.acquire(key, { reentrant, wait: "10ms" })).rejects.toMatchObject({
        reason: "wait-timeout",
      });
      const writer = locker.acquire(key, { reentrant, wait: true });
      const late = locker.acquire(key, { reentrant, mode: "shared", wait: true });
      await first.release();
      await second.release();
      const alone = await writer;
      expect(alone.held).toBe(true);
      await alone.release();
      await (await late).release();
    });
  });

  test("a signal ends the wait for such a call, and nothing is left of it", async () => {
    await using locker = create();
    const key = uniqueKey();
    await locker.withLock(key, async () => {
      const first = await locker.acquire(key, { reentrant });
      const leaving = new AbortController();
      const reason = new Error("enough");
      const second = locker.acquire(key, { reentrant, wait: true, signal: leaving.signal });
      const third = locker.acquire(key, { reentrant, wait: true });
      leaving.abort(reason);
      await expect(second).rejects.toBe(reason);
      // Admitted and aborted in one step, it lets the next one in.
      const fourth = new AbortController();
      const aborted = locker.acquire(key, { reentrant, wait: true, signal: fourth.signal });
      const fifth = locker.acquire(key, { reentrant, wait: true });
      await first.release();
      const got = await third;
      const releasing = got.release();
      fourth.abort(reason);
      await releasing;
      await expect(aborted).rejects.toBe(reason);
      await (await fifth).release();
    });
  });

  test("a share that outlives the function around it is lost when that ends", async () => {
    await using locker = create();
    const key = uniqueKey();
    let inner: Lock | undefined;
    let running: Promise<unknown> | undefined;
    await locker.withLock(key, async () => {
      inner = await locker.acquire(key, { reentrant, mode: "shared" });
      running = locker.withLock(key, () => new Promise(() => {}), { reentrant, mode: "shared" });
      running.catch(() => {});
      await new Promise(setImmediate);
      expect(inner.signal.aborted).toBe(false);
    });
    await expect(running).rejects.toThrow(/the function of the `withLock` around it has ended/);
    expect(inner?.held).toBe(false);
    expect(inner?.signal.reason).toBeInstanceOf(LockLostError);
    await expect(inner?.release()).rejects.toMatchObject({ reason: "lost" });
  });

  test("a share ends with the locker", async () => {
    const locker = create();
    const key = uniqueKey();
    const outer = locker.withLock(key, async () => {
      const inner = await locker.acquire(key, { reentrant });
      const waiting = expect(locker.acquire(key, { reentrant, wait: true })).rejects.toThrow(
        LockerClosedError,
      );
      await locker.close();
      expect(inner.held).toBe(false);
      expect(inner.signal.reason).toMatchObject({ cause: expect.any(LockerClosedError) });
      await waiting;
    });
    await expect(outer).rejects.toThrow(LockLostError);
  });

  test("what differs from the outer lock is refused", async () => {
    await using locker = create();
    const key = uniqueKey();
    await locker.withLock(
      key,
      async () => {
        const alone = await locker.acquire(key, { reentrant, wait: "1m" }).catch((reason: unknown) => reason);
        expect(alone).toMatchObject({ reason: "held", message: expect.stringContaining("holds it shared") });
        await (await locker.acquire(key, { reentrant, mode: "shared" })).release();
      },
      { mode: "shared" },
    );
    await locker.withLock(key, async () => {
      await expect(locker.acquire(key, { reentrant, fencing: true })).rejects.toThrow(
        /`fencing` to be absent/,
      );
      for (const call of [
        locker.withLock(key, never, { reentrant, holdAtLeast: "2s" }),
        locker.tryAcquire(key, { reentrant, holdAtLeast: "2s" }),
      ]) {
        await expect(call).rejects.toThrow(/`holdAtLeast` to be absent/);
      }
      await (await locker.acquire(key, { reentrant, holdAtLeast: 0 })).release();
    });
    await locker.withLock(uniqueKey(), () => {}, { reentrant, holdAtLeast: 1 });
    await locker.withLock(
      key,
      async ({ fencingToken }) => {
        await using inner = await locker.acquire(key, { reentrant, fencing: true });
        expect(inner.fencingToken).toBe(fencingToken);
      },
      { fencing: true },
    );
    await expect(locker.acquire(key, { reentrant: 1 as never })).rejects.toThrow(InvalidConfigError);
  });
});

test("a share is lost at once with the session of the lock", async () => {
  await using locker = createLocker();
  const key = uniqueKey();
  const outer = locker.withLock(key, async ({ id }) => {
    const inner = locker.withLock(key, () => new Promise(() => {}), { reentrant: true });
    const isLost = expect(inner).rejects.toThrow(LockLostError);
    for (const pid of await holdersOf(id)) await onServer("select pg_terminate_backend($1)", [pid]);
    await isLost;
  });
  await expect(outer).rejects.toThrow(LockLostError);
});

test("the lock of a transaction is not shared", async () => {
  await using locker = createLocker();
  const key = uniqueKey();
  await locker.withTransaction(key, async () => {
    await expect(locker.acquire(key, { reentrant: true, wait: true })).rejects.toMatchObject({
      reason: "held",
    });
    await expect(locker.acquire(key, { reentrant: true, wait: "20ms" })).rejects.toMatchObject({
      reason: "wait-timeout",
    });
    const text = "the `withTransaction` around this call holds it, and a lock is not re-entrant";
    expect(await because(locker.acquire(key))).toBe(text);
    expect(await because(locker.withTransaction(key, never, { wait: true }))).toBe(text);
  });
  await locker.withLock(key, async () => {
    const text = "the `withLock` around this call holds it, and a lock is not re-entrant";
    expect(await because(locker.withTransaction(key, never))).toBe(text);
  });
});

describe("a stranger whose work a limiter starts from inside another's withLock", () => {
  let installed: InstalledPackage;
  beforeAll(async () => {
    installed = await InstalledPackage.of("limiters");
  }, 120_000);
  afterAll(() => installed?.[Symbol.asyncDispose]());

  /** A limiter that starts the next work in the step in which the one before ends, and so in the context of that. */
  type Schedule = (work: () => Promise<unknown>) => Promise<unknown>;
  const limiters: Record<string, () => Promise<Schedule>> = {
    "p-queue": async () => {
      const { resolve } = createRequire(join(installed.folder, "package.json"));
      const { default: PQueue } = (await import(pathToFileURL(resolve("p-queue")).href)) as {
        default: new (options: { concurrency: number }) => { add: Schedule };
      };
      const queue = new PQueue({ concurrency: 1 });
      return (work) => queue.add(work);
    },
    bottleneck: async () => {
      const Bottleneck = installed.require<new (options: object) => { schedule: Schedule }>("bottleneck");
      const limiter = new Bottleneck({ maxConcurrent: 1 });
      return (work) => limiter.schedule(work);
    },
  };

  test.each(Object.entries(limiters))(
    "of %s: its bounded wait waits, and gets the lock",
    async (_, create) => {
      const schedule = await create();
      await using locker = createLocker();
      const key = uniqueKey();
      // Queued by somebody who knows nothing of the lock.
      const outside = AsyncResource.bind(schedule);
      let isInside = true;
      const bounded = () => locker.withLock(key, () => isInside, { wait: "10s" });
      const unbounded = () => locker.withLock(key, () => isInside, { wait: true });
      const bound = AsyncResource.bind(unbounded);
      let strangers: Promise<unknown>[] = [];
      await locker.withLock(key, async () => {
        const own = schedule(async () => "own");
        strangers = [
          // It begins in the step in which `own` ends, and so in the context of this function.
          outside(() => unbounded().catch((error: unknown) => error)),
          outside(async () => ({ bounded: bounded(), bound: bound() })),
        ];
        await own;
        await until(async () => (await locker.inspect(key)).waitingHere === 2);
        isInside = false;
      });
      const [refused, { bounded: waited, bound: cut }] = (await Promise.all(strangers)) as [
        unknown,
        Record<"bounded" | "bound", Promise<boolean>>,
      ];
      expect(refused).toMatchObject({ reason: "held", message: expect.stringContaining("not re-entrant") });
      expect(await Promise.all([waited, cut])).toEqual([false, false]);
    },
  );
});
