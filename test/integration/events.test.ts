import { channel } from "node:diagnostics_channel";
import { setImmediate as nextTurn } from "node:timers/promises";
import { describe, expect, test, vi } from "vitest";
import { InvalidConfigError, type LockEventName, type Locker } from "../../src/index.ts";
import { Child } from "../support/child.ts";
import { databaseUrl, holdersOf, onServer, uniqueKey } from "../support/database.ts";
import { eachLocker } from "../support/each-locker.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

const names = ["acquired", "released", "lost", "waiting", "sessionOpened", "sessionClosed"] as const;

/** Returns all events of a locker, in order. */
function toldBy(locker: Pick<Locker, "on">): Array<{ event: LockEventName; [fact: string]: unknown }> {
  const told: Array<{ event: LockEventName; [fact: string]: unknown }> = [];
  for (const event of names) locker.on(event, (facts) => told.push({ ...facts, event }));
  return told;
}

const aboutLocks = (told: ReturnType<typeof toldBy>) =>
  told.filter(({ event }) => !event.startsWith("session"));

describe.each(eachLocker)("%s: on", (_, create) => {
  test("reports a lock that is acquired and released", async () => {
    await using locker = create({ namespace: 7 });
    const told = toldBy(locker);
    const key = uniqueKey();
    const lock = await locker.acquire(key, { ttl: "5s", fencing: true, mode: "shared" });
    const about = { namespace: 7, key, id: lock.id, ttl: 5_000 };
    expect(aboutLocks(told)).toEqual([
      {
        event: "acquired",
        ...about,
        mode: "shared",
        fencingToken: lock.fencingToken,
        waited: expect.any(Number),
      },
    ]);
    await lock.release();
    expect(aboutLocks(told).slice(1)).toEqual([{ event: "released", ...about }]);
  });

  test("reports a wait, once, and nothing that was refused", async () => {
    await using locker = create();
    const told = toldBy(locker);
    const key = uniqueKey();
    const lock = await locker.acquire(key);
    expect(await locker.tryAcquire(key)).toBeUndefined();
    const waits = [1, 2].map(() => locker.withLock(key, () => {}, { wait: true }));
    await until(async () => (await locker.inspect(key)).waitingHere === 2);
    await lock.release();
    await Promise.all(waits);
    const events = aboutLocks(told).map(({ event }) => event);
    expect(events.filter((event) => event === "waiting")).toHaveLength(2);
    expect(events.filter((event) => event === "acquired")).toHaveLength(3);
    expect(events.filter((event) => event === "released")).toHaveLength(3);
    expect(events).not.toContain("lost");
  });

  test("reports a lock that has expired, and not that it was released", async () => {
    await using locker = create();
    const told = toldBy(locker);
    const lock = await locker.acquire(uniqueKey(), { ttl: "400ms" });
    await until(() => told.some(({ event }) => event === "lost"));
    expect(told.find(({ event }) => event === "lost")).toMatchObject({
      key: lock.key,
      reason: expect.objectContaining({ code: "LOCK_EXPIRED" }),
    });
    await lock.release().catch(() => {});
    expect(told.map(({ event }) => event)).not.toContain("released");
  });

  test("reports what close() ends", async () => {
    const locker = create();
    const told = toldBy(locker);
    const lock = await locker.acquire(uniqueKey());
    await locker.close();
    await until(() => told.some(({ event }) => event === "lost"));
    expect(told.find(({ event }) => event === "lost")?.["reason"]).toEqual(lock.signal.reason);
  });

  test("reports a permit as a lock: acquired, waited for and released once", async () => {
    await using locker = create({ namespace: 7 });
    const told = toldBy(locker);
    const key = uniqueKey();
    const semaphore = locker.semaphore(key, 1);
    const one = await semaphore.acquire({ ttl: "5s" });
    const about = { namespace: 7, key, id: one.id, ttl: 5_000 };
    const fencingToken = undefined;
    const acquired = {
      event: "acquired",
      ...about,
      mode: "exclusive",
      waited: expect.any(Number),
      fencingToken,
    };
    expect(aboutLocks(told)).toEqual([acquired]);
    expect(await semaphore.tryAcquire()).toBeUndefined();
    const two = semaphore.acquire({ wait: true, ttl: "5s" });
    await until(() => aboutLocks(told).length === 2);
    await one.release();
    await (await two).release();
    await nextTurn();
    expect(aboutLocks(told).slice(1)).toEqual([
      { event: "waiting", ...about, id: expect.any(BigInt), mode: "exclusive" },
      { event: "released", ...about },
      acquired,
      { event: "released", ...about },
    ]);
  });

  test("reports a permit that close() ends, and nothing of those who wait for it", async () => {
    const locker = create();
    const told = toldBy(locker);
    const semaphore = locker.semaphore(uniqueKey(), 1);
    const permit = await semaphore.acquire();
    const waits = [1, 2].map(() => semaphore.tryAcquire({ wait: true }).catch(() => {}));
    await until(() => aboutLocks(told).filter(({ event }) => event === "waiting").length === 2);
    await locker.close();
    await Promise.all(waits);
    await until(() => told.some(({ event }) => event === "lost"));
    expect(aboutLocks(told).filter(({ event }) => event !== "waiting")).toEqual([
      expect.objectContaining({ event: "acquired", id: permit.id }),
      expect.objectContaining({ event: "lost", id: permit.id }),
    ]);
  });

  test("calls each listener, until it is removed", async () => {
    await using locker = create();
    const listener = vi.fn();
    const stops = [locker.on("acquired", listener), locker.on("acquired", listener)];
    await locker.withLock(uniqueKey(), () => {});
    expect(listener).toHaveBeenCalledTimes(2);
    stops[0]?.();
    stops[0]?.();
    await locker.withLock(uniqueKey(), () => {});
    expect(listener).toHaveBeenCalledTimes(3);
    stops[1]?.();
    await locker.withLock(uniqueKey(), () => {});
    expect(listener).toHaveBeenCalledTimes(3);
  });

  test("what a listener throws, or rejects with, harms nobody", async () => {
    await using locker = create();
    // Printed once for each kind of event and process, which another test checks.
    const warned = vi.spyOn(process, "emitWarning").mockImplementation(() => {});
    try {
      const key = `of:${uniqueKey()}`;
      for (const on of [locker.on, locker.namespace("of").on]) {
        for (const event of names) {
          on(event, () => {
            throw new Error("its own");
          });
          on(event, (async () => Promise.reject(new Error("its own"))) as () => void);
        }
      }
      const told = toldBy(locker);
      await locker.withLock(key, () => {});
      const lock = await locker.acquire(key);
      const wait = locker.acquire(key, { wait: true });
      await until(() => told.some(({ event }) => event === "waiting"));
      await lock.release();
      await (await wait).release();
      expect(aboutLocks(told).filter(({ event }) => event === "released")).toHaveLength(3);
    } finally {
      warned.mockRestore();
    }
  });

  test("a listener may call the locker", async () => {
    await using locker = create();
    const key = uniqueKey();
    const later: Promise<unknown>[] = [];
    locker.on("acquired", ({ key: acquired }) => {
      if (acquired === key)
        later.push(
          locker.tryAcquire(key),
          locker.withLock(`${key} too`, () => 7),
        );
    });
    await using _lock = await locker.acquire(key);
    expect(await Promise.all(later)).toEqual([undefined, 7]);
  });

  test("a listener may close the locker, which leaves nothing", async () => {
    const locker = create();
    const closed = new Promise<void>((resolve) => {
      locker.on("acquired", () => void locker.close().then(resolve));
    });
    const lock = await locker.acquire(uniqueKey());
    await closed;
    expect(lock.held).toBe(false);
  });

  test("refuses an unknown event, or a listener that is not a function", async () => {
    await using locker = create();
    expect(() => locker.on("aquired" as never, () => {})).toThrow(/`event` to be one of acquired, /);
    expect(() => locker.on("toString" as never, () => {})).toThrow(InvalidConfigError);
    expect(() => locker.on("lost", undefined as never)).toThrow(/`listener` to be a function/);
  });

  test("the same is published on diagnostics channels, for all lockers", async () => {
    await using locker = create({ namespace: 42 });
    const key = uniqueKey();
    const told: unknown[] = [];
    const listen = (message: unknown): void => void told.push(message);
    const acquired = channel("pg-locker:acquired");
    acquired.subscribe(listen);
    try {
      await locker.withLock(key, () => {});
    } finally {
      acquired.unsubscribe(listen);
    }
    await locker.withLock(key, () => {});
    expect(told).toEqual([expect.objectContaining({ namespace: 42, key, mode: "exclusive" })]);
  });
});

test("a lock that is lost with its session is reported, and so is the session", async () => {
  await using locker = createLocker({ namespace: 7 });
  const told = toldBy(locker);
  const lock = await locker.acquire(uniqueKey());
  const [pid] = await holdersOf(lock.id);
  await onServer("select pg_terminate_backend($1)", [pid]);
  await until(() => told.some(({ event }) => event === "lost"));
  const use = expect.stringMatching(/^(shared|dedicated)$/);
  expect(told.filter(({ event }) => event !== "acquired")).toEqual(
    expect.arrayContaining([
      { event: "sessionOpened", namespace: 7, pid, use },
      expect.objectContaining({ event: "lost", key: lock.key, reason: lock.signal.reason }),
      { event: "sessionClosed", namespace: 7, pid, use, reason: expect.any(Error) },
    ]),
  );
});

test("sessions that go back without a fault are reported, each once", async () => {
  const locker = createLocker();
  const told = toldBy(locker);
  const key = uniqueKey();
  const lock = await locker.acquire(key);
  const wait = locker.acquire(key, { wait: true });
  await until(async () => (await locker.inspect(key)).waiters.length === 1);
  await lock.release();
  await (await wait).release();
  await locker.close();
  const sessions = told.filter(({ event }) => event.startsWith("session"));
  const opened = sessions.filter(({ event }) => event === "sessionOpened").map(({ pid }) => pid);
  const closed = sessions.filter(({ event }) => event === "sessionClosed");
  expect(new Set(opened).size).toBe(opened.length);
  expect(closed.map(({ pid }) => pid).sort()).toEqual([...opened].sort());
  expect(closed.map(({ reason }) => reason)).toEqual(closed.map(() => undefined));
  expect(new Set(sessions.map(({ use }) => use))).toContain("waiting");
});

test("each of the locks of several keys is reported", async () => {
  await using locker = createLocker();
  const told = toldBy(locker);
  const keys = [uniqueKey(), uniqueKey()];
  await locker.withLocks(keys, () => {});
  expect(
    aboutLocks(told)
      .map(({ event, key }) => `${event} ${key}`)
      .sort(),
  ).toEqual(keys.flatMap((key) => [`acquired ${key}`, `released ${key}`]).sort());
});

test("what a refused tryAcquireAll held for a moment is reported, each to its end", async () => {
  await using locker = createLocker();
  const keys = [uniqueKey(), uniqueKey()] as const;
  await using _lock = await locker.acquire(keys[1]);
  const told = toldBy(locker);
  expect(await locker.tryAcquireAll(keys)).toBeUndefined();
  await nextTurn();
  const events = aboutLocks(told).map(({ event, key }) => ({ event, key }));
  const pair = ["acquired", "released"].map((event) => ({ event, key: keys[0] }));
  expect(events).not.toEqual([]);
  expect(events).toEqual(Array.from({ length: events.length / 2 }, () => pair).flat());
});

test("a permit that nobody got, because of another number of them, is not reported", async () => {
  await using one = createLocker();
  await using other = createLocker();
  const told = [toldBy(one), toldBy(other)];
  const key = uniqueKey();
  let granted = 0;
  for (let round = 0; round < 15; round += 1) {
    const asked = [one.semaphore(key, 2).acquire(), other.semaphore(key, 3).acquire()];
    for (const each of await Promise.allSettled(asked)) {
      if (each.status === "rejected") continue;
      granted += 1;
      await each.value.release();
    }
    await until(async () => one.stats().inFlight + other.stats().inFlight === 0);
  }
  const events = told.flatMap((each) => aboutLocks(each).map(({ event }) => event));
  expect(events.filter((event) => event === "acquired")).toHaveLength(granted);
  expect(events.filter((event) => event === "released")).toHaveLength(granted);
});

test("a transaction's lock is not reported", async () => {
  await using locker = createLocker();
  const told = toldBy(locker);
  await locker.withTransaction(uniqueKey(), () => {});
  expect(aboutLocks(told)).toEqual([]);
});

describe("what a subscriber of a diagnostics channel throws", () => {
  const env = { DATABASE_URL: databaseUrl() };

  test("is uncaught, as with every channel of Node.js, and so ends the process", async () => {
    await using child = Child.start("throwing-subscriber.mjs", { env });
    expect(await child.exited).toEqual({ code: 1, signal: null });
    expect(child.stderr).toContain("thrown at acquired");
    expect(child.messages).toEqual([]);
  });

  test("harms no lock, if the process handles what is uncaught", async () => {
    await using child = Child.start("throwing-subscriber.mjs", { args: ["handled"], env });
    expect(await child.message(({ uncaught }) => uncaught !== undefined)).toEqual({
      value: true,
      told: ["subscriber"],
      next: true,
      uncaught: ["thrown at acquired", "thrown at released", "thrown at acquired"],
    });
    expect(await child.exited, child.stderr).toEqual({ code: 0, signal: null });
  });
});
