import { mock } from "node:test";
import { afterEach, describe, expect, test, vi } from "vitest";
import {
  InvalidConfigError,
  InvalidTtlError,
  MemoryLocker,
  type TransactionClient,
  type TransactionLocker,
} from "../../src/index.ts";
import { testLockerContract } from "../../src/testing/contract/contract-suite.ts";

for (const ttlEnforcement of ["client", "server"] as const) {
  testLockerContract(`MemoryLocker, TTL enforced by the ${ttlEnforcement}`, {
    runner: { describe, test },
    // No server is involved, so the durations can be short.
    create: async () => ({
      locker: new MemoryLocker({ ttlEnforcement }),
      durations: { brief: 30, spare: 500 },
    }),
    deviations: ttlEnforcement === "client" ? ["instance-local", "lapsed-lock-stays"] : ["instance-local"],
    concurrent: true,
    transactions: true,
  });
}

describe("with a clock of the test's", () => {
  afterEach(() => {
    vi.useRealTimers();
  });

  test("a lock whose TTL has passed keeps others out until its holder releases it", async () => {
    vi.useFakeTimers();
    const locker = new MemoryLocker();
    const lock = await locker.acquire("key", { ttl: "10s" });
    await vi.advanceTimersByTimeAsync(60_000);
    expect([lock.held, lock.expired]).toEqual([false, true]);
    expect(await locker.tryAcquire("key")).toBeUndefined();
    await lock[Symbol.asyncDispose]();
    await (await locker.acquire("key")).release();
  });

  test("holdAtLeast may be longer than any timer, and than any TTL", async () => {
    vi.useFakeTimers();
    const locker = new MemoryLocker({ ttlEnforcement: "server" });
    await locker.withLock("key", () => {}, { ttl: "1m", holdAtLeast: "1000h" });
    for (let hours = 1; hours < 1_000; hours += 1) {
      await vi.advanceTimersByTimeAsync(3_600_000);
      expect(await locker.isHeld("key")).toBe(true);
    }
    await vi.advanceTimersByTimeAsync(3_600_000);
    expect(await locker.isHeld("key")).toBe(false);
  });
});

test("a TTL that a server couldn't enforce is refused with ttlEnforcement: server", async () => {
  const ttl = 2 ** 31;
  await expect(new MemoryLocker({ ttlEnforcement: "server" }).acquire("key", { ttl })).rejects.toThrow(
    InvalidTtlError,
  );
  expect((await new MemoryLocker().acquire("key", { ttl })).ttl).toBe(ttl);
});

test("an unknown ttlEnforcement is refused", () => {
  expect(() => new MemoryLocker({ ttlEnforcement: "none" as "server" })).toThrow(InvalidConfigError);
});

describe("the client of a transaction of MemoryLocker", () => {
  const fake = (failsAt?: string): TransactionClient & { told: string[] } => {
    const told: string[] = [];
    const query = async (text: string, values: unknown[] = []) => {
      told.push([text.split(" ")[0], ...values].join(" "));
      if (text === failsAt) throw new Error(`no ${text} today`);
      return { rows: [{ paid: true }] };
    };
    return { query, told };
  };

  /** Pays as an application does, which doesn't know where its locks are. */
  const pay = (locker: TransactionLocker, client?: TransactionClient): Promise<unknown> =>
    locker.withTransaction(
      "invoice:42",
      async (tx) => {
        const { rows } = await tx.query("update invoice set paid = true where id = $1 returning paid", [42]);
        return rows[0]?.["paid"];
      },
      client && { client },
    );

  test("is what the test makes, and gets begin and commit", async () => {
    const client = fake();
    await using locker = new MemoryLocker({ transaction: async () => client });
    expect(await pay(locker)).toBe(true);
    expect(client.told).toEqual(["begin", "update 42", "commit"]);
  });

  test("gets rollback if the function fails, whose error the caller gets", async () => {
    const client = fake();
    await using locker = new MemoryLocker({ transaction: () => client });
    const failing = locker.withTransaction("key", async (tx) => {
      await tx.query("insert");
      throw new Error("the function's own");
    });
    await expect(failing).rejects.toThrow("the function's own");
    expect(client.told).toEqual(["begin", "insert", "rollback"]);
    await (await locker.acquire("key")).release();
  });

  test("whose rollback fails adds that to the error; whose commit fails rejects with it", async () => {
    await using rolling = new MemoryLocker({ transaction: () => fake("rollback") });
    const failing = rolling.withTransaction("key", () => {
      throw new Error("the function's own");
    });
    await expect(failing).rejects.toMatchObject({
      message: "the function's own",
      suppressed: { message: "no rollback today" },
    });
    await using committing = new MemoryLocker({ transaction: () => fake("commit") });
    await expect(committing.withTransaction("key", () => {})).rejects.toThrow("no commit today");
    await (await committing.acquire("key")).release();
  });

  test("is the caller's, if it gives one, which gets no statement from the locker", async () => {
    const client = fake();
    await using locker = new MemoryLocker({ transaction: () => expect.unreachable() });
    expect(await pay(locker, client)).toBe(true);
    expect(client.told).toEqual(["update 42"]);
  });

  test("is rolled back if the locker was closed in the meantime", async () => {
    const client = fake();
    const locker = new MemoryLocker({ transaction: () => client });
    const running = locker.withTransaction("key", async () => {
      await locker.close();
    });
    await expect(running).rejects.toMatchObject({ code: "LOCKER_CLOSED" });
    expect(client.told).toEqual(["begin", "rollback"]);
  });

  test("is committed if the locker is closed during the commit, which close() waits for", async () => {
    const client = fake();
    let committed = (): void => {};
    const query = async (text: string) => {
      if (text === "commit") await new Promise<void>((resolve) => (committed = resolve));
      return client.query(text);
    };
    const locker = new MemoryLocker({ transaction: () => ({ query }) });
    const running = locker.withTransaction("key", () => 42);
    await vi.waitUntil(() => client.told.length === 1);
    await new Promise((resolve) => setImmediate(resolve));
    const closed = locker.close().then(() => client.told.push("closed"));
    committed();
    expect(await running).toBe(42);
    await closed;
    expect(client.told).toEqual(["begin", "commit", "closed"]);
  });

  test("is the caller's to end, also if the locker is closed in the meantime", async () => {
    const client = fake();
    const locker = new MemoryLocker();
    const running = locker.withTransaction("key", () => locker.close().then(() => 42), { client });
    expect(await running).toBe(42);
    expect(client.told).toEqual([]);
  });

  test("is named by the error of its queries, if the option is absent", async () => {
    await using locker = new MemoryLocker();
    await expect(pay(locker)).rejects.toMatchObject({ code: "INVALID_CONFIG", field: "transaction" });
    expect(() => new MemoryLocker({ transaction: {} as never })).toThrow(
      "Expected `transaction` to be a function that makes the client of a transaction",
    );
  });
});

interface Faker {
  readonly by: string;
  begin(): void;
  /** Moves the time, and lets everybody who waited for that have a turn. */
  advance(milliseconds: number): Promise<void>;
}

const realImmediate = setImmediate;

async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await new Promise<void>((resolve) => realImmediate(resolve));
}

function fakedByVitest(by: string, toFake?: readonly FakeMethod[]): Faker {
  return {
    by,
    begin: () => void vi.useFakeTimers(toFake === undefined ? {} : { toFake: [...toFake] }),
    advance: async (milliseconds) => void (await vi.advanceTimersByTimeAsync(milliseconds)),
  };
}

function fakedByNode(by: string, options?: Parameters<typeof mock.timers.enable>[0]): Faker {
  return {
    by,
    begin: () => mock.timers.enable(options),
    advance: async (milliseconds) => {
      await settle();
      mock.timers.tick(milliseconds);
      await settle();
    },
  };
}

type FakeMethod = NonNullable<NonNullable<Parameters<typeof vi.useFakeTimers>[0]>["toFake"]>[number];

const timers = ["setTimeout", "clearTimeout", "setInterval", "clearInterval", "Date"] as const;

describe.each<Faker>([
  fakedByVitest("vitest"),
  fakedByVitest("vitest before 3", timers),
  fakedByVitest("jest and sinon", [...timers, "performance", "setImmediate", "queueMicrotask"]),
  fakedByNode("mock.timers"),
  fakedByNode("mock.timers, of two", { apis: ["setTimeout", "Date"] }),
])("by a clock that is faked by $by", ({ begin, advance }) => {
  afterEach(() => {
    mock.timers.reset();
    vi.useRealTimers();
  });

  /** Settles with how the call ended, and says meanwhile that it hasn't. */
  function watched(call: Promise<unknown>): { ended: unknown } {
    const seen: { ended: unknown } = { ended: "not yet" };
    call.then(
      () => (seen.ended = "granted"),
      ({ reason }: { reason: unknown }) => (seen.ended = reason),
    );
    return seen;
  }

  test("a TTL passes", async () => {
    begin();
    const lock = await new MemoryLocker().acquire("key", { ttl: "30s" });
    await advance(29_000);
    expect([lock.held, lock.remaining <= 1_000]).toEqual([true, true]);
    await lock.refresh();
    await advance(29_000);
    expect([lock.held, lock.signal.aborted]).toEqual([true, false]);
    await advance(1_001);
    expect([lock.held, lock.expired, lock.signal.aborted]).toEqual([false, true, true]);
  });

  test("the bound of a wait passes", async () => {
    begin();
    const locker = new MemoryLocker();
    const semaphore = locker.semaphore("permits", 1);
    await Promise.all([locker.acquire("key"), semaphore.acquire()]);
    const waits = [
      watched(locker.acquire("key", { wait: "10s" })),
      watched(locker.acquireAll(["key", "other"], { wait: "10s" })),
      watched(semaphore.acquire({ wait: "10s" })),
    ];
    const inside = watched(
      locker.withLock(
        "own",
        async () => {
          watched(locker.withLock("own", () => new Promise(() => {}), { reentrant: true }));
          await locker.withLock("own", () => {}, { reentrant: true, wait: "10s" });
        },
        { ttl: "1h" },
      ),
    );
    await advance(9_999);
    expect([...waits, inside].map(({ ended }) => ended)).toEqual(Array(4).fill("not yet"));
    await advance(2);
    expect([...waits, inside].map(({ ended }) => ended)).toEqual(Array(4).fill("wait-timeout"));
  });

  test("what takes no time needs no move of the time", async () => {
    begin();
    const locker = new MemoryLocker({ circuitBreaker: { execute: (run) => run() } });
    const acquired: string[] = [];
    locker.on("acquired", ({ key }) => acquired.push(key));
    const lock = await locker.acquire("key");
    const waiting = locker.acquire("key", { wait: "10s" });
    await lock.release();
    await (await waiting).release();
    await settle();
    expect(acquired).toEqual(["key", "key"]);
  });

  test("a lock is refreshed by itself", async () => {
    begin();
    const lock = await new MemoryLocker().acquire("key", { ttl: "3s", autoRefresh: true });
    for (let second = 0; second < 20; second += 1) await advance(1_000);
    expect(lock.held).toBe(true);
    await lock.release();
  });

  test("the minimum time of holdAtLeast passes", async () => {
    begin();
    const locker = new MemoryLocker();
    await locker.withLock("key", () => {}, { holdAtLeast: "5s" });
    await advance(4_999);
    expect(await locker.isHeld("key")).toBe(true);
    await advance(2);
    expect(await locker.isHeld("key")).toBe(false);
  });
});

test("with setTimeout faked alone, nothing passes: the clocks say that no time has", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    const locker = new MemoryLocker();
    const lock = await locker.acquire("key", { ttl: "30s" });
    let isOver = false;
    const end = new AbortController();
    const waiting = locker.acquire("key", { wait: "30s", signal: end.signal }).catch(() => {
      isOver = true;
    });
    await settle();
    mock.timers.tick(31_000);
    await settle();
    expect([lock.held, isOver]).toEqual([true, false]);
    end.abort();
    await waiting;
  } finally {
    mock.timers.reset();
  }
});

test.each(["acquire", "withTransaction"] as const)(
  "a caller that comes with a release doesn't pass those that wait: %s",
  async (method) => {
    await using locker = new MemoryLocker();
    const lock = await locker.acquire("key");
    const waiting = locker.acquire("key", { wait: true });
    await vi.waitUntil(() => locker.stats().waiting === 1);
    const released = lock.release();
    const late = method === "acquire" ? locker.acquire("key") : locker.withTransaction("key", () => {});
    await expect(late).rejects.toMatchObject({ reason: "held" });
    await released;
    await (await waiting).release();
    // Nor does a caller that tries over and over keep out one that waits.
    let isServed = false;
    const served = locker.withLock("key", () => (isServed = true), { wait: true });
    while (!isServed) await (await locker.tryAcquire("key"))?.release();
    await served;
  },
);

test("a MemoryLocker works where timers are numbers, as in a browser's window", async () => {
  const { setTimeout: real, clearTimeout: stop } = globalThis;
  const timers = new Map<number, NodeJS.Timeout>();
  vi.stubGlobal("setTimeout", (...args: Parameters<typeof real>) => {
    timers.set(timers.size + 1, real(...args));
    return timers.size;
  });
  vi.stubGlobal("clearTimeout", (at: number) => stop(timers.get(at)));
  vi.stubGlobal("setImmediate", undefined);
  try {
    await using locker = new MemoryLocker({ ttlEnforcement: "server" });
    const lock = await locker.acquire("key", { ttl: 50 });
    await new Promise<void>((resolve) => lock.signal.addEventListener("abort", () => resolve()));
    await (await locker.acquire("key", { wait: "10s" })).release();
    // Its breaker, its events and what polls for a held lock take turns of the event loop.
    const circuitBreaker = { execute: <T>(run: () => Promise<T>) => run() };
    await using other = new MemoryLocker({ ttlEnforcement: "server", circuitBreaker });
    const lost = new Promise<string>((resolve) => other.on("lost", (event) => resolve(event.key)));
    await other.acquire("key", { ttl: 50 });
    expect(await lost).toBe("key");
    await other.acquire("key");
    await expect(other.acquire("key", { wait: "700ms" })).rejects.toMatchObject({ reason: "wait-timeout" });
  } finally {
    for (const timer of timers.values()) stop(timer);
    vi.unstubAllGlobals();
  }
});

test("a misspelt option is told which options there are", async () => {
  const locker = new MemoryLocker();
  const lock = await locker.acquire("key");
  const misspelt = { misspelt: 1 } as object;
  const are = (options: string) => `Expected \`misspelt\` to be absent: ${options}, got \`1\` (number)`;
  await expect(lock.refresh("5s", misspelt)).rejects.toThrow(are("the only option is signal"));
  await expect(locker.ping(misspelt)).rejects.toThrow(are("the only option is signal"));
  await expect(locker.close(misspelt)).rejects.toThrow(are("the only option is drain"));
  await expect(locker.withTransaction("other", () => {}, misspelt)).rejects.toThrow(
    are("the options are ttl, wait, mode, signal, client"),
  );
  await locker.close();
});
