import { describe, expect, test } from "vitest";
import {
  InvalidConfigError,
  type Lock,
  type LockIdFunction,
  LockNotAcquiredError,
  listLocks,
  lockId,
  sha256LockId,
} from "../../src/index.ts";
import { createPool, uniqueKey } from "../support/database.ts";
import { eachLocker } from "../support/each-locker.ts";
import { createLocker } from "../support/locker.ts";

describe.each(eachLocker)("%s: a key of bytes", (_, create) => {
  test("that are UTF-8 is the key of the string that they encode", async () => {
    await using locker = create();
    const key = uniqueKey("é");
    await using lock = await locker.acquire(Buffer.from(key));
    expect(lock.key).toBe(key);
    expect(lock.id).toBe(lockId(0, key));
    expect(await locker.tryAcquire(key)).toBeUndefined();
  });

  test("that aren't UTF-8 is a key of its own, whatever becomes of the array", async () => {
    await using locker = create({ namespace: 7 });
    const bytes = Buffer.concat([Buffer.of(0xff), Buffer.from(uniqueKey())]);
    await using lock = await locker.acquire(bytes);
    expect(lock.key).toBe(`\udcff${bytes.subarray(1).toString()}`);
    expect(lock.id).toBe(lockId(7, bytes));
    expect(await locker.tryAcquire(Uint8Array.from(bytes))).toBeUndefined();
    bytes[0] = 0xfe;
    await using other = await locker.acquire(bytes);
    expect(other.key).not.toBe(lock.key);
    await expect(locker.acquire(bytes)).rejects.toThrow(/"\\udcfe/);
  });

  test("is taken with others, each once", async () => {
    await using locker = create();
    const key = uniqueKey();
    await using both = await locker.acquireAll([Buffer.of(0xff, 0x61), key]);
    expect(both.locks.map((lock) => lock.key)).toEqual(["\udcffa", key]);
    await expect(locker.acquireAll([key, Buffer.from(key)])).rejects.toThrow(/no key occurs twice/);
  });

  test("is a semaphore's key, whatever becomes of the array", async () => {
    await using locker = create();
    const text = uniqueKey();
    const bytes = Buffer.concat([Buffer.of(0xff), Buffer.from(text)]);
    const [same, prefixed] = [Uint8Array.from(bytes), Buffer.concat([Buffer.from("n:"), bytes])];
    const [slots, inNamespace] = [locker.semaphore(bytes, 1), locker.namespace("n").semaphore(bytes, 1)];
    bytes[0] = 0xfe;
    await using permit = await slots.acquire();
    expect([slots.key, permit.key]).toEqual([`\udcff${text}`, `\udcff${text}`]);
    expect(await locker.semaphore(same, 1).tryAcquire()).toBeUndefined();
    await using _other = await locker.semaphore(bytes, 1).acquire();
    await using _third = await inNamespace.acquire();
    expect(await locker.semaphore(prefixed, 1).tryAcquire()).toBeUndefined();
    await using _ofText = await locker.semaphore(text, 1).acquire();
    expect(await locker.semaphore(Buffer.from(text), 1).tryAcquire()).toBeUndefined();
  });

  test("is an election's key, whatever becomes of the array", async () => {
    await using locker = create();
    const text = uniqueKey();
    const bytes = Buffer.concat([Buffer.of(0xff), Buffer.from(text)]);
    for (const [elector, key] of [
      [locker, `\udcff${text}`],
      [locker.namespace("n"), `n:\udcff${text}`],
    ] as const) {
      const asked = Uint8Array.from(bytes);
      const stop = new AbortController();
      const terms: string[] = [];
      const onElected = (lock: Lock): void => {
        asked[0] = 0xfe;
        if (terms.push(lock.key) === 2) stop.abort();
      };
      await elector.elect(asked, { signal: stop.signal, retryPeriod: 1, onElected });
      expect(terms).toEqual([key, key]);
    }
  });

  test.each([[""], [new Uint8Array()], [{}], ["\ud800"]])("that is none is refused: %j", async (key) => {
    await using locker = create();
    const [given, code] = [key as string, /^(EMPTY|INVALID)_KEY$/];
    for (const at of [locker, locker.namespace("n")]) {
      expect(() => at.semaphore(given, 1)).toThrow(
        expect.objectContaining({ code: expect.stringMatching(code) }),
      );
      await expect(at.elect(given, { onElected() {} })).rejects.toMatchObject({
        code: expect.stringMatching(code),
      });
    }
  });
});

describe.each(eachLocker)("%s: an id of the caller's own", (_, create) => {
  test("becomes the lock's id, made of the namespace and the key", async () => {
    const asked: unknown[] = [];
    const own: LockIdFunction = (namespace, key) => {
      asked.push([namespace, key]);
      return lockId(namespace, key) ^ 1n;
    };
    await using locker = create({ namespace: 7, lockId: own });
    const key = uniqueKey();
    await using lock = await locker.acquire(key);
    expect(lock.id).toBe(lockId(7, key) ^ 1n);
    await using ofBytes = await locker.acquire(Buffer.from(`${key} too`));
    await using ofOthers = await locker.acquire(Buffer.of(0xff));
    expect([ofBytes.key, ofOthers.key]).toEqual([`${key} too`, "\udcff"]);
    expect(asked).toEqual([
      [7, key],
      [7, `${key} too`],
      [7, Uint8Array.of(0xff)],
    ]);
  });

  test("by SHA-256 excludes callers with the same one", async () => {
    await using locker = create({ lockId: sha256LockId });
    const key = uniqueKey();
    await using lock = await locker.acquire(key);
    expect(lock.id).toBe(sha256LockId(0, key));
    expect(await locker.tryAcquire(key)).toBeUndefined();
  });

  test.each([
    ["no bigint", 7],
    ["too large", 2n ** 63n],
    ["too small", -(2n ** 63n) - 1n],
    ["undefined", undefined],
    ["a promise", Promise.resolve(7n)],
  ])("that is %s is refused by name, and nothing is held", async (_what, id) => {
    await using locker = create({ lockId: (() => id) as never });
    const error = await locker.acquire("k").catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(InvalidConfigError);
    expect(error).toMatchObject({ field: "lockId", message: expect.stringContaining("a bigint from -2^63") });
  });

  test("whose function throws is refused by name, with the cause", async () => {
    const cause = new Error("no salt");
    await using locker = create({
      lockId: () => {
        throw cause;
      },
    });
    await expect(locker.withLock("k", () => {})).rejects.toMatchObject({ field: "lockId", cause });
  });

  test("has to be a function", () => {
    expect(() => create({ lockId: "sha256" as never })).toThrow(/`lockId` to be a function/);
  });
});

test("two keys with one id of the caller's own are told apart", async () => {
  await using locker = createLocker({ lockId: () => 42n });
  await using _lock = await locker.acquire("one");
  const error = await locker.acquire("other").catch((reason: unknown) => reason);
  expect(error).toBeInstanceOf(LockNotAcquiredError);
  expect(error).toMatchObject({ reason: "id-collision", otherKey: "one" });
});

test("the list of locks shows a key of bytes as its lock does", async () => {
  const pool = createPool();
  await using locker = createLocker({ pool, sessions: "dedicated" });
  await using lock = await locker.acquire(Buffer.concat([Buffer.from(uniqueKey("caf")), Buffer.of(0xe9)]));
  const [seen] = await listLocks(pool, { id: lock.id });
  expect(seen?.key).toBe(lock.key);
});

describe.each(eachLocker)("%s: a lockId that counts 1, 2, 3", (_, create) => {
  test("keeps semaphores apart, from each other and from locks", async () => {
    const keys: string[] = [];
    const counted: LockIdFunction = (_namespace, key) => {
      if (!keys.includes(String(key))) keys.push(String(key));
      return BigInt(keys.indexOf(String(key)) + 1);
    };
    await using locker = create({ lockId: counted });
    const names = [uniqueKey(), uniqueKey(), uniqueKey()] as const;
    const [one, other, wide] = names.map((key, at) => locker.semaphore(key, at === 2 ? 5 : 2));
    const held = [await one?.acquire(), await one?.acquire()];
    expect(await one?.tryAcquire()).toBeUndefined();
    await using _other = await other?.acquire();
    await using _wide = await wide?.acquire();
    await using _lock = await locker.acquire("lock");
    await held[0]?.release();
    await using _again = await one?.acquire();
    await held[1]?.release();
    expect(keys).toEqual([...names, "lock"]);
  });
});
