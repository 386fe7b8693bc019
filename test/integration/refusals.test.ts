import { AsyncResource } from "node:async_hooks";
import { once } from "node:events";
import { describe, expect, test } from "vitest";
import { LockNotAcquiredError } from "../../src/index.ts";
import { uniqueKey } from "../support/database.ts";
import { eachLocker } from "../support/each-locker.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

// Whoever is refused a lock reads in the message who has it: the caller itself, its locker, or somebody else.

const never = (): never => expect.unreachable();
const reentrant = true;

/** The message of a call that is refused, after the key. */
const because = async (call: Promise<unknown>): Promise<string> => {
  const error = await call.then(never, (reason: unknown) => reason);
  expect(error).toBeInstanceOf(LockNotAcquiredError);
  return (error as Error).message.replace(/^.*not acquired: /, "");
};

describe.each(eachLocker)("%s: a refusal says that", (_, create) => {
  const here = "another call of this locker holds it";

  test("another call of the same locker holds the lock", async () => {
    await using locker = create();
    const key = uniqueKey();
    await using _lock = await locker.acquire(key);
    expect(await because(locker.acquire(key))).toBe(here);
    expect(await because(locker.acquire(key, { mode: "shared" }))).toBe(here);
    expect(await because(locker.acquire(key, { wait: 20 }))).toBe(`still held after 20 ms: ${here}`);
    expect(await because(locker.withTransaction(key, never))).toBe(here);
  });

  test("two calls of one function want the same lock, which isn't the function's", async () => {
    await using locker = create();
    const key = uniqueKey();
    await locker.withLock(uniqueKey(), async () => {
      await using _lock = await locker.acquire(key);
      expect(await because(locker.acquire(key, { reentrant }))).toBe(here);
    });
  });

  test("the lock of a transaction of the same locker is held here", async () => {
    await using locker = create();
    const key = uniqueKey();
    // As if from outside the function: a caller that knows nothing of it.
    const refused = AsyncResource.bind(() => because(locker.acquire(key)));
    await locker.withTransaction(key, async () => expect(await refused()).toBe(here));
  });

  test("a lock has not been released after its TTL", async () => {
    await using locker = create();
    const key = uniqueKey();
    const lock = await locker.acquire(key, { ttl: 30 });
    if (!lock.signal.aborted) await once(lock.signal, "abort");
    const text = "another call of this locker has not released it, although its TTL has passed";
    expect(await because(locker.acquire(key))).toBe(text);
    await expect(lock.release()).rejects.toMatchObject({ reason: "expired" });
  });

  test("a lock that was released is kept, until when", async () => {
    await using locker = create();
    const key = uniqueKey();
    const before = Date.now();
    await locker.withLock(key, () => {}, { holdAtLeast: "1h" });
    const kept = /^its holder has released it, and `holdAtLeast` keeps it until (\S+Z)$/;
    const [, until = ""] = kept.exec(await because(locker.acquire(key))) ?? [];
    expect(Date.parse(until)).toBeGreaterThanOrEqual(before + 3_599_000);
    expect(Date.parse(until)).toBeLessThanOrEqual(Date.now() + 3_600_000);
    expect(await because(locker.acquire(key, { wait: 20 }))).toMatch(
      /^still held after 20 ms: its holder has/,
    );
  });

  test("a permit that was released is kept, until when the first of them is", async () => {
    await using locker = create();
    const inAnHour = (text: string, end: RegExp): void => {
      const kept = /(.*), and `holdAtLeast` keeps it until (\S+Z)$/.exec(text);
      expect(kept?.[1]).toMatch(end);
      const left = Date.parse(kept?.[2] ?? "") - Date.now();
      expect(left).toBeGreaterThan(3_500_000);
      expect(left).toBeLessThanOrEqual(3_600_000);
    };
    const only = locker.semaphore(uniqueKey(), 1);
    await only.withPermit(() => {}, { holdAtLeast: "1h" });
    inAnHour(await because(only.acquire()), /^the only permit has been released$/);
    const three = locker.semaphore(uniqueKey(), 3);
    for (const holdAtLeast of ["2h", "1h"]) await three.withPermit(() => {}, { holdAtLeast });
    await using _held = await three.acquire();
    const held = /^all 3 permits are held, or others wait for one; one has been released$/;
    inAnHour(await because(three.acquire()), held);
    const waited = await because(three.acquire({ wait: 20 }));
    expect(waited).toMatch(/^not granted within 20 ms: /);
    inAnHour(waited.replace(/^.*ms: /, ""), held);
  });

  test("another call inside the function around it shares the lock at the moment", async () => {
    await using locker = create();
    const key = uniqueKey();
    await locker.withLock(key, async () => {
      await using _one = await locker.acquire(key, { reentrant });
      const text =
        "another call inside the `withLock` around this call has it, and such calls exclude each other";
      expect(await because(locker.acquire(key, { reentrant }))).toBe(text);
      const late = locker.acquire(key, { reentrant, wait: 20 });
      expect(await because(late)).toBe(`still held after 20 ms: ${text}`);
    });
  });

  test("the function around it had ended when its turn came", async () => {
    await using locker = create();
    const key = uniqueKey();
    const { late } = await locker.withLock(key, async () => {
      await locker.acquire(key, { reentrant });
      return { late: because(locker.acquire(key, { reentrant, wait: true })) };
    });
    const text = "the `withLock` around this call no longer holds the lock that this call was to share";
    expect(await late).toBe(text);
  });

  test("the function around it holds the lock shared, and a writer waits", async () => {
    await using locker = create();
    const key = uniqueKey();
    const mode = "shared";
    const writing = new AbortController();
    const { signal } = writing;
    const write = AsyncResource.bind(() => locker.acquire(key, { wait: true, signal }).catch(() => {}));
    let writer: Promise<unknown> | undefined;
    await locker.withLock(
      key,
      async () => {
        const shared = "the `withLock` around this call holds it shared, and";
        expect(await because(locker.acquire(key))).toBe(
          `${shared} a shared lock does not become an exclusive one`,
        );
        writer = write();
        await until(async () => (await locker.inspect(key)).waitingHere === 1);
        const first = `${shared} a waiting writer is served first`;
        expect(await because(locker.acquire(key, { mode }))).toBe(
          `${first}; with \`reentrant: true\`, the call would share that lock`,
        );
        await (await locker.acquire(key, { mode, reentrant })).release();
      },
      { mode },
    );
    writing.abort();
    await writer;
  });

  test("a shared part of an exclusive lock does not become exclusive again", async () => {
    await using locker = create();
    const key = uniqueKey();
    const mode = "shared";
    const write = (options: object): Promise<string> => because(locker.withLock(key, never, options));
    const read = (): Promise<void> =>
      locker.withLock(
        key,
        async () => {
          const text =
            "the `withLock` around this call holds it shared, and a shared lock does not become an exclusive one";
          expect(await write({ reentrant })).toBe(text);
          expect(await write({ reentrant, wait: true })).toBe(text);
          expect(await write({})).toBe(text);
          expect(await locker.tryWithLock(key, never, { reentrant })).toEqual({ acquired: false });
        },
        { mode, reentrant },
      );
    // Two readers at the same time: if both could become writers, they would wait for each other.
    await locker.withLock(key, () => Promise.all([read(), read()]));
  });

  test("a writer of the same locker waits for readers", async () => {
    await using locker = create();
    const key = uniqueKey();
    const mode = "shared";
    const writing = new AbortController();
    await using _reader = await locker.acquire(key, { mode });
    const writer = locker.acquire(key, { wait: true, signal: writing.signal });
    await until(async () => (await locker.inspect(key)).waitingHere === 1);
    const text = "other calls of this locker wait for it, and are served first";
    expect(await because(locker.acquire(key, { mode }))).toBe(text);
    expect(await because(locker.acquire(key))).toBe(here);
    writing.abort();
    await expect(writer).rejects.toThrow(/abort/);
  });

  test("no permit of a semaphore is free", async () => {
    await using locker = create();
    const [one, two] = [locker.semaphore(uniqueKey(), 1), locker.semaphore(uniqueKey(), 2)];
    await using _one = await one.acquire();
    await using _two = await two.acquire();
    await using _more = await two.acquire();
    await expect(one.acquire()).rejects.toThrow(/^Permit of "[^"]+" not acquired: the only permit is held,/);
    const text = "all 2 permits are held, or others wait for one";
    expect(await because(two.acquire())).toBe(text);
    expect(await because(two.acquire({ wait: 20 }))).toBe(`not granted within 20 ms: ${text}`);
  });
});

test("a refusal says that the lock is held elsewhere, if another locker has it", async () => {
  await using theirs = createLocker();
  await using ours = createLocker();
  const key = uniqueKey();
  await using _lock = await theirs.acquire(key);
  expect(await because(ours.acquire(key))).toBe("it is held elsewhere");
  expect(await because(ours.acquire(key, { wait: 20 }))).toBe("still held elsewhere after 20 ms");
});

test("a reader is told that a writer of another locker may be before it", async () => {
  await using theirs = createLocker();
  await using ours = createLocker();
  const key = uniqueKey();
  const mode = "shared";
  await using _reader = await ours.acquire(key, { mode });
  const writing = new AbortController();
  const writer = theirs.acquire(key, { wait: true, signal: writing.signal });
  await until(async () => (await ours.inspect(key)).waiters.length === 1);
  await using third = createLocker();
  const text = "a writer elsewhere holds it, or waits for it";
  expect(await because(third.acquire(key, { mode }))).toBe(text);
  expect(await because(third.acquire(key, { mode, wait: 20 }))).toBe(`not granted within 20 ms: ${text}`);
  expect(await because(ours.acquire(key, { mode }))).toBe(text);
  writing.abort();
  await expect(writer).rejects.toThrow(/abort/);
});

describe.each(eachLocker)("%s: inspect shows a kept lock", (_, create) => {
  test("as held here until its time, and a held one without such a time", async () => {
    await using locker = create();
    const key = uniqueKey();
    const before = Date.now();
    const lock = await locker.acquire(key, { holdAtLeast: "1h", fencing: true });
    const { fencingToken } = lock;
    expect((await locker.inspect(key)).holders).toMatchObject([{ own: true, keptUntil: undefined }]);
    await lock.release();
    const { held, heldHere, holders } = await locker.inspect(key);
    expect({ held, heldHere }).toEqual({ held: true, heldHere: true });
    expect(holders).toMatchObject([{ own: true, fencingToken, keptUntil: expect.any(Date) }]);
    const until = holders[0]?.keptUntil?.getTime() ?? 0;
    expect(until).toBeGreaterThanOrEqual(before + 3_599_000);
    expect(until).toBeLessThanOrEqual(Date.now() + 3_600_000);
    expect(await locker.isHeld(key)).toBe(true);
  });

  test("shared with a reader as held, since the earlier grant", async () => {
    await using locker = create();
    const key = uniqueKey();
    const options = { mode: "shared", holdAtLeast: "1h" } as const;
    const kept = await locker.acquire(key, options);
    const { since } = (await locker.inspect(key)).holders[0] ?? {};
    await using _reader = await locker.acquire(key, { mode: "shared" });
    await kept.release();
    const [first] = (await locker.inspect(key)).holders;
    expect(first?.since).toEqual(since);
    expect((await locker.inspect(key)).holders.some(({ keptUntil }) => keptUntil === undefined)).toBe(true);
  });
});
