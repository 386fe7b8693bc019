import pg from "pg";
import { describe, expect, test } from "vitest";
import {
  type AcquireOptions,
  EmptyKeyError,
  InvalidConfigError,
  InvalidKeyError,
  InvalidTtlError,
  LockExpiredError,
  LockerClosedError,
  LockLostError,
  LockNotAcquiredError,
  lockId,
  MemoryLocker,
} from "../../src/index.ts";
import { advisoryLocks, connect, createPool, holdersOf, onServer, uniqueKey } from "../support/database.ts";
import { eachLocker } from "../support/each-locker.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

describe.each(eachLocker)("%s: withLocks", (_, create) => {
  test("runs its function under all of them, and gives them back", async () => {
    await using locker = create();
    const keys = [uniqueKey(), uniqueKey(), uniqueKey()];
    const value = await locker.withLocks(keys, (locks) => {
      expect(locks.held).toBe(true);
      expect(locks.locks.map(({ key }) => key)).toEqual(keys);
      return 42;
    });
    expect(value).toBe(42);
    await using _free = await locker.acquireAll(keys);
  });

  test("takes all or none, and doesn't run its function without them", async () => {
    await using locker = create();
    const [one, other] = [uniqueKey(), uniqueKey()];
    await using _held = await locker.acquire(other);
    const never = () => expect.unreachable();
    await expect(locker.withLocks([one, other], never)).rejects.toThrow(LockNotAcquiredError);
    await using _free = await locker.acquire(one);
  });

  test.each([
    ["rejects", () => Promise.reject(new Error("mine"))],
    [
      "throws",
      () => {
        throw new Error("mine");
      },
    ],
  ])("releases them if its function %s", async (_what, fn) => {
    await using locker = create();
    const keys = [uniqueKey(), uniqueKey()];
    await expect(locker.withLocks(keys, fn)).rejects.toThrow("mine");
    await using _free = await locker.acquireAll(keys);
  });

  test("refreshes them while its function runs", async () => {
    await using locker = create();
    const end = performance.now() + 1_500;
    const held = await locker.withLocks(
      [uniqueKey(), uniqueKey()],
      async (locks) => {
        await until(() => performance.now() > end || !locks.held);
        return locks.held;
      },
      { ttl: "600ms" },
    );
    expect(held).toBe(true);
  });

  test("rejects at once with the first that is lost, though its function never settles", async () => {
    await using locker = create();
    const options = { ttl: "400ms", autoRefresh: false };
    const running = locker.withLocks([uniqueKey(), uniqueKey()], () => new Promise(() => {}), options);
    await expect(running).rejects.toThrow(LockExpiredError);
  });

  test("refuses bad arguments before anything is taken", async () => {
    await using locker = create();
    await expect(locker.withLocks([], () => {})).rejects.toThrow(/at least one key/);
    await expect(locker.withLocks("k" as never, () => {})).rejects.toThrow(/an array of keys/);
    await expect(locker.withLocks(["k"], undefined as never)).rejects.toThrow(/`fn` to be a function/);
    await expect(locker.withLocks(["k"], () => {}, { tll: 1 } as never)).rejects.toThrow(InvalidConfigError);
  });

  test("tryAcquireAll returns nothing if somebody holds one, and holds none", async () => {
    await using locker = create();
    const [one, other] = [uniqueKey(), uniqueKey()];
    const held = await locker.acquire(other);
    expect(await locker.tryAcquireAll([one, other])).toBeUndefined();
    expect(await locker.tryAcquireAll([one, other], { wait: "20ms" })).toBeUndefined();
    await held.release();
    await using both = await locker.tryAcquireAll([one, other]);
    expect(both?.held).toBe(true);
    await expect(locker.tryAcquireAll([])).rejects.toThrow(InvalidConfigError);
  });
});

test("withLocks ends with a session that is ended in the server", async () => {
  await using locker = createLocker();
  const running = locker.withLocks([uniqueKey(), uniqueKey()], async ({ locks: [one] }) => {
    for (const pid of await holdersOf(one?.id ?? 0n))
      await onServer("select pg_terminate_backend($1)", [pid]);
    await new Promise(() => {});
  });
  await expect(running).rejects.toThrow(LockLostError);
});

describe.each(eachLocker)("%s: defaults", (_, create) => {
  test("apply to the options that a call leaves out", async () => {
    await using locker = create({ defaults: { ttl: "10s", wait: "20ms" } });
    const key = uniqueKey();
    await using lock = await locker.acquire(key);
    expect(lock.ttl).toBe(10_000);
    await expect(locker.acquire(key, { ttl: undefined, wait: undefined } as never)).rejects.toMatchObject({
      reason: "wait-timeout",
      waited: 20,
    });
  });

  test("give way to the options of a call", async () => {
    await using locker = create({ defaults: { ttl: "10s", wait: true } });
    const key = uniqueKey();
    await using lock = await locker.acquire(key, { ttl: "5s" });
    expect(lock.ttl).toBe(5_000);
    await expect(locker.acquire(key, { wait: 0 })).rejects.toMatchObject({ reason: "held" });
  });

  test("apply to several keys, and to functions", async () => {
    await using locker = create({ defaults: { ttl: "10s" } });
    await using group = await locker.acquireAll([uniqueKey(), uniqueKey()]);
    expect(group.locks.map(({ ttl }) => ttl)).toEqual([10_000, 10_000]);
    await locker.withLock(uniqueKey(), ({ ttl }) => expect(ttl).toBe(10_000));
  });

  test("refresh every lock, if they say so", async () => {
    await using locker = create({ defaults: { ttl: "500ms", autoRefresh: true } });
    await using lock = await locker.acquire(uniqueKey());
    const end = performance.now() + 1_200;
    await until(() => performance.now() > end || !lock.held);
    expect(lock.held).toBe(true);
  });

  test("refresh none, that of a function included, if they say so", async () => {
    await using locker = create({ defaults: { ttl: "400ms", autoRefresh: false } });
    const { withPermit, tryWithPermit } = locker.semaphore(uniqueKey(), 2);
    const scopes = [
      locker.withLock(uniqueKey(), () => new Promise(() => {})),
      withPermit(() => new Promise(() => {})),
      tryWithPermit(() => new Promise(() => {})),
    ];
    await Promise.all(scopes.map((scope) => expect(scope).rejects.toThrow(LockExpiredError)));
    await withPermit((permit) => permit.refresh("10s"), { autoRefresh: true });
  });

  test("don't end the lock of a transaction, whatever they say", async () => {
    await using locker = create({ defaults: { ttl: "300ms", autoRefresh: false } });
    const key = uniqueKey();
    const end = performance.now() + 600;
    const held = locker.withTransaction(key, async () => {
      await until(() => performance.now() > end);
      return await locker.isHeld(key);
    });
    expect(await held).toBe(true);
  });

  test.each([
    ["ttl", 0],
    ["ttl", "soon"],
    ["wait", -1],
    ["wait", false],
    ["autoRefresh", 1],
    ["tll", "1s"],
  ])("with %s: %o are refused by name", (field, value) => {
    const build = () => create({ defaults: { [field]: value } });
    expect(build).toThrow(InvalidConfigError);
    expect(build).toThrow(`\`defaults.${field}\``);
  });

  test.each([null, [], "30s"])("%o are not accepted", (defaults) => {
    expect(() => create({ defaults: defaults as never })).toThrow(/`defaults` to be an object/);
  });
});

test("a default TTL is held to what the server enforces, and to the grace", () => {
  const pool = createPool();
  expect(() => createLocker({ pool, ttlEnforcement: "server", defaults: { ttl: 0.1 } })).toThrow(
    /`defaults.ttl`/,
  );
  const build = () => createLocker({ pool, recoveryGrace: "5s", defaults: { ttl: "6s" } });
  expect(build).toThrow(InvalidConfigError);
  expect(build).toThrow(expect.objectContaining({ cause: expect.any(InvalidTtlError) }));
});

describe.each(eachLocker)("%s: wrapWithLock", (_, create) => {
  test("runs a function of the same arguments and `this` under the lock of its key", async () => {
    await using locker = create();
    const prefix = uniqueKey();
    class Account {
      balance = 40;
      async add(amount: number, _note?: string): Promise<number> {
        expect(await locker.isHeld(`${prefix}:${amount}`)).toBe(true);
        this.balance += amount;
        return this.balance;
      }
    }
    const account = new Account();
    const add = locker.wrapWithLock((amount: number) => `${prefix}:${amount}`, account.add);
    expect(await add.call(account, 2)).toBe(42);
    expect(add.name).toBe("add");
    expect(add.length).toBe(account.add.length);
    expect(await locker.isHeld(`${prefix}:2`)).toBe(false);
  });

  test("runs its calls one after the other, if they wait", async () => {
    await using locker = create();
    let inside = 0;
    const one = locker.wrapWithLock(
      uniqueKey(),
      async () => {
        inside += 1;
        await until(() => true);
        return inside--;
      },
      { wait: true },
    );
    expect(await Promise.all([one(), one(), one()])).toEqual([1, 1, 1]);
  });

  test("rejects with what its function throws, and if the lock is held elsewhere", async () => {
    await using locker = create();
    const key = uniqueKey();
    const fails = locker.wrapWithLock(key, () => {
      throw new Error("mine");
    });
    await expect(fails()).rejects.toThrow("mine");
    await using _held = await locker.acquire(key);
    await expect(fails()).rejects.toThrow(LockNotAcquiredError);
  });

  test("rejects with the error of the key's function, or of the key that it returns", async () => {
    await using locker = create();
    const run = () => expect.unreachable();
    const throws = locker.wrapWithLock(() => {
      throw new Error("no key");
    }, run);
    await expect(throws()).rejects.toThrow("no key");
    await expect(locker.wrapWithLock(() => "", run)()).rejects.toThrow(EmptyKeyError);
    await expect(locker.wrapWithLock(() => 7 as never, run)()).rejects.toThrow(InvalidKeyError);
  });

  test("refuses bad arguments at once", async () => {
    await using locker = create();
    expect(() => locker.wrapWithLock("k", 7 as never)).toThrow(InvalidConfigError);
    expect(() => locker.wrapWithLock("k", () => {}, { tll: 1 } as never)).toThrow(/`tll`/);
    for (const of of [locker, locker.namespace("of")]) {
      expect(() => of.wrapWithLock("", () => {})).toThrow(EmptyKeyError);
      expect(() => of.wrapWithLock(7 as never, () => {})).toThrow(InvalidKeyError);
      for (const key of ["k", () => "k"]) {
        const wrap = (options: AcquireOptions) => of.wrapWithLock(key, () => {}, options);
        expect(() => wrap({ ttl: 0 })).toThrow(InvalidTtlError);
        expect(() => wrap({ wait: -1 })).toThrow(/`wait`/);
        expect(() => wrap({ holdAtLeast: -1 })).toThrow(/`holdAtLeast`/);
        expect(() => wrap({ client: createPool() as never })).toThrow(/`client`/);
      }
    }
    await using enforced = create({ ttlEnforcement: "server" });
    expect(() => enforced.wrapWithLock("k", () => {}, { ttl: 0.1 })).toThrow(InvalidTtlError);
    const client = await connect();
    expect(() => enforced.wrapWithLock("k", () => {}, { client })).toThrow(/`client` to be absent/);
  });
});

describe.each(eachLocker)("%s: a namespace", (_, create) => {
  test("is a prefix of its keys: the same lock by either way", async () => {
    await using locker = create({ namespace: 7 });
    const billing = locker.namespace("billing");
    const key = uniqueKey();
    await using lock = await billing.acquire(key);
    expect(lock.key).toBe(`billing:${key}`);
    expect(lock.id).toBe(lockId(7, `billing:${key}`));
    expect(await locker.tryAcquire(`billing:${key}`)).toBeUndefined();
    await using _same = await locker.acquire(key);
    await using _other = await locker.namespace("shipping").acquire(key);
  });

  test("may be in another one", async () => {
    await using locker = create();
    await using lock = await locker.namespace("eu").namespace("billing").acquire("42");
    expect(lock.key).toBe("eu:billing:42");
  });

  test("has every method that takes locks, callable without its object", async () => {
    await using locker = create();
    const name = uniqueKey();
    const space = locker.namespace(name);
    const { acquire, tryAcquire, acquireAll, tryAcquireAll, withLock, tryWithLock, withLocks, ping } = space;
    const { wrapWithLock, inspect, isHeld, on } = space;
    const acquired: string[] = [];
    const stop = on("acquired", ({ key }) => acquired.push(key));
    await (await acquire("a")).release();
    await (await tryAcquire("b"))?.release();
    await (await acquireAll(["c", Buffer.of(0xff)])).release();
    await (await tryAcquireAll(["d"]))?.release();
    await withLock("e", async ({ key }) => {
      expect(key).toBe(`${name}:e`);
      expect(await isHeld("e")).toBe(true);
      expect(await tryAcquire("e")).toBeUndefined();
    });
    expect(await tryWithLock("f", () => 6)).toEqual({ acquired: true, value: 6 });
    await withLocks(["g", "h"], () => {});
    expect(
      await wrapWithLock(
        (n: number) => `i${n}`,
        (n: number) => n + 1,
      )(1),
    ).toBe(2);
    expect(await wrapWithLock("j", () => "j")()).toBe("j");
    expect((await inspect("k")).key).toBe(`${name}:k`);
    await ping();
    await (await locker.acquire("of the parent")).release();
    stop();
    expect(new Set(acquired)).toEqual(
      new Set(["a", "b", "c", "\udcff", "d", "e", "f", "g", "h", "i1", "j"].map((key) => `${name}:${key}`)),
    );
  });

  test("refuses an empty or invalid name or key", async () => {
    await using locker = create();
    expect(() => locker.namespace("")).toThrow(EmptyKeyError);
    expect(() => locker.namespace("\ud800")).toThrow(InvalidKeyError);
    expect(() => locker.namespace(7 as never)).toThrow(InvalidConfigError);
    const space = locker.namespace("billing");
    await expect(space.acquire("")).rejects.toThrow(EmptyKeyError);
    await expect(space.withLock(7 as never, () => {})).rejects.toThrow(InvalidKeyError);
    await expect(space.acquireAll("k" as never)).rejects.toThrow(/an array of keys/);
  });

  test("ends with its locker, and has no end of its own", async () => {
    const locker = create();
    const space = locker.namespace("billing");
    const lock = await space.acquire(uniqueKey());
    expect("close" in space || Symbol.asyncDispose in space).toBe(false);
    await locker.close();
    expect(lock.held).toBe(false);
    await expect(space.acquire("k")).rejects.toThrow(LockerClosedError);
  });
});

test("a namespace shares the sessions of its locker, and has transactions", async () => {
  const pool = createPool();
  await using locker = createLocker({ pool, sessions: "shared" });
  const space = locker.namespace("billing");
  await using _one = await locker.acquire(uniqueKey());
  await using _other = await space.acquire(uniqueKey());
  expect(new Set((await advisoryLocks()).map(({ pid }) => pid)).size).toBe(1);
  const key = uniqueKey();
  await space.withTransaction(key, async () => {
    expect(await locker.isHeld(`billing:${key}`)).toBe(true);
  });
  await space.namespace("eu").withTransaction(key, async () => {
    expect(await locker.isHeld(`billing:eu:${key}`)).toBe(true);
  });
});

test("a lock in memory has no client", async () => {
  await using locker = new MemoryLocker();
  await expect(locker.acquire("k", { client: new pg.Client() })).rejects.toThrow(/`client` to be absent/);
});
