import { setTimeout as delay } from "node:timers/promises";
import { runInNewContext } from "node:vm";
import type { MeterProvider, Span, TracerProvider } from "@opentelemetry/api";
import { handleAll, retry, TimeoutStrategy, timeout, wrap } from "cockatiel";
import pg from "pg";
import { describe, expect, test } from "vitest";
import {
  type CircuitBreaker,
  CircuitOpenError,
  type Lock,
  type Locker,
  type Logger,
  type PostgresLocker,
  type PostgresLockerOptions,
} from "../../src/index.ts";
import { Child } from "../support/child.ts";
import {
  advisoryLocks,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  terminateHolder,
  uniqueKey,
} from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

// A hook that a user gives to a locker may throw, be slow, or return nothing or something odd: it decides nothing.

type Hooks = Pick<PostgresLockerOptions, "logger" | "meterProvider" | "tracerProvider">;

const bothSessions = ["shared", "dedicated"] as const;

function refuse(): never {
  throw new TypeError("Cannot read properties of undefined (reading 'id')");
}

function loggerOf(line: (facts: object, message: string) => unknown): Logger {
  const write = line as (facts: object, message: string) => void;
  return { debug: write, info: write, warn: write, error: write };
}

function meters(instrument: unknown): MeterProvider {
  const create = (): unknown => instrument;
  const meter = { createCounter: create, createUpDownCounter: create, createHistogram: create };
  return { getMeter: () => meter } as unknown as MeterProvider;
}

/** A tracer that calls the function of a span in an unusual way. */
function tracers(start: (work: (span: Span) => unknown) => unknown): TracerProvider {
  const startActiveSpan = (_name: string, _options: unknown, work: (span: Span) => unknown): unknown =>
    start(work);
  return { getTracer: () => ({ startActiveSpan }) } as unknown as TracerProvider;
}

function spanOf(method: () => unknown): Span {
  return { setAttribute: method, recordException: method, setStatus: method, end: method } as unknown as Span;
}

const hostile: Readonly<Record<string, Hooks>> = {
  "a logger that throws": { logger: loggerOf(refuse) },
  "a logger that throws what has no text": {
    logger: loggerOf(() => {
      throw Object.create(null);
    }),
  },
  "a logger that returns a rejected promise": {
    logger: loggerOf(() => Promise.reject(new Error("rejected"))),
  },
  "a logger that returns a rejected promise of another realm": {
    logger: loggerOf(() => runInNewContext("Promise.reject(new Error('rejected elsewhere'))")),
  },
  "a meter provider that throws": { meterProvider: { getMeter: refuse } },
  "a meter provider without a meter": { meterProvider: { getMeter: () => undefined as never } },
  "a meter that throws": { meterProvider: { getMeter: () => ({ createCounter: refuse }) as never } },
  "a meter whose instruments are undefined": { meterProvider: meters(undefined) },
  "instruments that throw": { meterProvider: meters({ add: refuse, record: refuse }) },
  "instruments that return a rejected promise": {
    meterProvider: meters({ add: () => Promise.reject(new Error("add")), record: refuse }),
  },
  "a tracer provider that throws": { tracerProvider: { getTracer: refuse } },
  "a tracer provider without a tracer": { tracerProvider: { getTracer: () => undefined as never } },
  "a tracer that throws": { tracerProvider: tracers(refuse) },
  "a tracer that never calls": { tracerProvider: tracers(() => undefined) },
  "a tracer that calls twice": {
    tracerProvider: tracers((work) => [work(spanOf(() => undefined)), work(spanOf(() => undefined))]),
  },
  "a tracer that calls, and then throws": {
    tracerProvider: tracers((work) => {
      void work(spanOf(() => undefined));
      refuse();
    }),
  },
  "a tracer that returns a rejected promise": {
    tracerProvider: tracers(async (work) => {
      void work(spanOf(() => Promise.reject(new Error("of a span"))));
      refuse();
    }),
  },
  "a tracer that calls later": {
    tracerProvider: tracers((work) => void setTimeout(() => work(spanOf(() => undefined)), 5)),
  },
  "a tracer that calls in the next step": {
    tracerProvider: tracers(async (work) => {
      await undefined;
      return await work(spanOf(() => undefined));
    }),
  },
  "a tracer without a span": { tracerProvider: tracers((work) => work(undefined as never)) },
  "spans that throw": { tracerProvider: tracers((work) => work(spanOf(refuse))) },
};

describe.each(bothSessions)("%s sessions: every operation does what it does without", (sessions) => {
  test.each(Object.entries(hostile))("%s", async (_, hooks) => {
    const pool = createPool();
    const locker = createLocker({ pool, sessions, ...hooks });
    const [key, lostKey] = [uniqueKey(), uniqueKey("lost")];
    const lock = await locker.acquire(key);
    expect(await locker.tryAcquire(key)).toBeUndefined();
    await lock.refresh("20s");
    expect([lock.held, lock.ttl]).toEqual([true, 20_000]);
    // The call doesn't throw synchronously, either.
    await lock.release();
    await expect(lock.release()).rejects.toMatchObject({ reason: "released" });
    expect(await locker.withLock(key, () => 7)).toBe(7);
    await locker.withTransaction(key, async (client) => await client.query("select 1"));
    await locker.ping();

    const lost = await locker.acquire(lostKey);
    const [pid] = await holdersOf(lost.id);
    await onServer("select pg_terminate_backend($1)", [pid]);
    await until(() => lost.signal.aborted);
    expect(lost.held).toBe(false);
    const again = await locker.acquire(lostKey, { wait: "5s" });
    await again.release();

    const short = await locker.acquire(key, { ttl: 500 });
    await until(() => short.signal.aborted);
    await locker.acquire(lostKey);
    await locker.close();
    expect(await advisoryLocks()).toEqual([]);
  });
});

test("if the logger throws, every signal still aborts, and the locks are free again", async () => {
  await using locker = createLocker({ logger: loggerOf(refuse) });
  const keys = Array.from({ length: 20 }, () => uniqueKey());
  const locks = await Promise.all(keys.map((key) => locker.acquire(key)));
  const [pid] = await holdersOf(locks[0]?.id ?? 0n);
  await onServer("select pg_terminate_backend($1)", [pid]);
  await until(() => locks[0]?.signal.aborted);
  expect(locks.map(({ held, signal }) => [held, signal.aborted])).toEqual(keys.map(() => [false, true]));
  const again = await Promise.all(keys.map((key) => locker.acquire(key, { wait: "5s" })));
  await Promise.all(again.map((lock) => lock.release()));
});

test("a logger that takes 5 ms a line delays no signal of 500 locks lost together", async () => {
  const lines: string[] = [];
  const slow = loggerOf((_, message) => {
    lines.push(message);
    for (const end = performance.now() + 5; performance.now() < end; );
  });
  await using locker = createLocker({ logger: slow });
  const locks = await Promise.all(Array.from({ length: 500 }, () => locker.acquire(uniqueKey())));
  const told: number[] = [];
  for (const { signal } of locks) signal.addEventListener("abort", () => told.push(performance.now()));
  const [pid] = await holdersOf(locks[0]?.id ?? 0n);
  await onServer("select pg_terminate_backend($1)", [pid]);
  await until(() => told.length === 500, { deadline: 10_000 });
  expect((told.at(-1) as number) - (told[0] as number)).toBeLessThan(1_000);
  // And nothing is missing from the log.
  await until(() => lines.length >= 500, { deadline: 15_000 });
});

test.each<[string, (locker: Locker, locks: readonly Lock[]) => Promise<unknown>, number]>([
  ["lost together", (_, locks) => terminateHolder(locks[0]?.id ?? 0n), 1_000],
  ["that close() ends", (locker) => locker.close(), 500],
])("a meter that takes 5 ms a call delays no signal of 500 locks %s", async (_, end, all) => {
  let isOver = false;
  let counts = 0;
  const add = (): void => {
    if (!isOver) return;
    counts += 1;
    for (const over = performance.now() + 5; performance.now() < over; );
  };
  const instrument = { add, record() {} };
  const make = (): object => instrument;
  const meter = { createCounter: make, createUpDownCounter: make, createHistogram: make };
  await using locker = createLocker({ meterProvider: { getMeter: () => meter } });
  const locks = await Promise.all(Array.from({ length: 500 }, () => locker.acquire(uniqueKey())));
  const countsBefore: number[] = [];
  for (const { signal } of locks) signal.addEventListener("abort", () => countsBefore.push(counts));
  isOver = true;
  await end(locker, locks);
  await until(() => countsBefore.length === 500, { deadline: 10_000 });
  expect(Math.max(...countsBefore)).toBe(0);
  // And nothing is missing in the counts: each lock is held no longer, and each that was lost was lost.
  await until(() => counts >= all, { deadline: 15_000 });
});

test("a throwing listener of a signal keeps no lock from being told or freed", async () => {
  await using child = Child.start("throwing-listener.mjs", { env: { DATABASE_URL: databaseUrl() } });
  const { id } = await child.message((message) => "id" in message);
  const [pid] = await holdersOf(BigInt(String(id)));
  await onServer("select pg_terminate_backend($1)", [pid]);
  const told = await child.message((message) => "aborted" in message);
  expect(told).toEqual({ aborted: [true, true, true], heard: [0, 1, 2], uncaught: 3, again: true });
  expect(await child.exited).toEqual({ code: 0, signal: null });
});

test("a logger may call the locker itself, from every line", async () => {
  const gained: Promise<boolean>[] = [];
  let asks = true;
  const locker: PostgresLocker = createLocker({
    logger: loggerOf(() => {
      if (!asks) return;
      asks = false;
      gained.push(locker.withLock(uniqueKey("log"), ({ held }) => held));
    }),
  });
  const lock = await locker.acquire(uniqueKey());
  expect(await locker.tryAcquire(lock.key)).toBeUndefined();
  expect(await Promise.all(gained)).toEqual([true]);
  asks = true;
  const [pid] = await holdersOf(lock.id);
  await onServer("select pg_terminate_backend($1)", [pid]);
  await until(() => gained.length === 2);
  // The session in the log may be the one that has gone.
  expect(await Promise.all(gained)).toEqual([true, true]);
  await locker.close();
});

const policies: Readonly<Record<string, CircuitBreaker>> = {
  "calls twice, one after the other": {
    execute: async (fn) => {
      await fn();
      return await fn();
    },
  },
  "calls twice at once": { execute: async (fn) => (await Promise.all([fn(), fn()]))[0] },
  "calls again some time after its answer": {
    execute: async (fn) => {
      setTimeout(() => void fn().catch(() => {}), 20);
      return await fn();
    },
  },
  "tries again around a time-out": wrap(
    retry(handleAll, { maxAttempts: 3 }),
    timeout(1, TimeoutStrategy.Aggressive),
  ),
  "calls, and answers something else": {
    execute: async (fn) => {
      void fn().catch(() => {});
      return undefined as never;
    },
  },
  "calls, and throws": {
    execute: (fn) => {
      void fn().catch(() => {});
      throw new Error("thrown");
    },
  },
  "calls, and never answers": {
    execute: (fn) => {
      void fn().catch(() => {});
      return new Promise(() => {});
    },
  },
};

describe.each(bothSessions)(
  "%s sessions: one operation has one outcome, if the breaker's policy",
  (sessions) => {
    test.each(Object.entries(policies))("%s", async (_, circuitBreaker) => {
      const locker = createLocker({ sessions, circuitBreaker });
      const key = uniqueKey();
      const lock = await locker.acquire(key);
      expect(await holdersOf(lock.id)).toHaveLength(1);
      expect(await locker.tryAcquire(key)).toBeUndefined();
      await lock.refresh();
      await lock.release();
      await (await locker.acquire(key)).release();
      await locker.close();
      expect(await advisoryLocks()).toEqual([]);
    });

    test("answers without a call, and calls later: it has refused, and nothing is taken", async () => {
      const late: Promise<unknown>[] = [];
      const circuitBreaker: CircuitBreaker = {
        execute: async (fn) => {
          late.push(delay(20).then(fn));
          return undefined as never;
        },
      };
      const locker = createLocker({ sessions, circuitBreaker });
      const refused = await locker.acquire(uniqueKey()).catch((error: unknown) => error);
      expect(refused).toBeInstanceOf(CircuitOpenError);
      expect(await Promise.allSettled(late)).toMatchObject([{ status: "rejected", reason: refused }]);
      expect(await advisoryLocks()).toEqual([]);
      await locker.close();
    });

    test("throws synchronously, without a message: it has refused", async () => {
      const circuitBreaker: CircuitBreaker = {
        execute: () => {
          throw Object.create(null);
        },
      };
      await using locker = createLocker({ sessions, circuitBreaker });
      await expect(locker.acquire(uniqueKey())).rejects.toThrow(CircuitOpenError);
    });
  },
);

test.each(bothSessions)("%s sessions: a listener of the pool that throws keeps no lock", async (sessions) => {
  const pool = new pg.Pool({ connectionString: databaseUrl() });
  const locker = createLocker({ pool, sessions });
  const clients = new Set<pg.PoolClient>();
  pool.on("acquire", (client) => clients.add(client));
  const lock = await locker.acquire(uniqueKey());
  const [pid] = await holdersOf(lock.id);
  pool.on("release", refuse);
  await onServer("select pg_terminate_backend($1)", [pid]);
  await until(() => lock.signal.aborted);
  await (await locker.acquire(lock.key, { wait: "5s" })).release();
  await locker.acquire(lock.key);
  await locker.close();
  expect(await advisoryLocks()).toEqual([]);
  // node-postgres itself forgets a client whose release was disturbed: such a pool never ends.
  for (const client of clients) cutSocket(client);
});

test.each(bothSessions)(
  "%s sessions: a listener of the pool comes after the signals of the locks",
  async (sessions) => {
    const pool = createPool();
    await using locker = createLocker({ pool, sessions });
    const locks = await Promise.all([uniqueKey(), uniqueKey()].map((key) => locker.acquire(key)));
    for (const { signal } of locks) signal.throwIfAborted();
    const seen: unknown[] = [];
    pool.on("release", () => seen.push(...locks.map(({ held, signal }) => [held, signal.aborted])));
    await terminateHolder(locks[0]?.id ?? 0n);
    await until(() => seen.length > 0);
    expect(seen[0]).toEqual([false, true]);
    if (sessions === "shared") expect(seen[1]).toEqual([false, true]);
  },
);

test("a listener of the pool that throws at a late connection harms nobody", async () => {
  const pool = new pg.Pool({ connectionString: databaseUrl(), max: 1 });
  await using locker = createLocker({ pool, sessions: "dedicated", connWaitTimeout: "50ms" });
  const client = await pool.connect();
  await expect(locker.acquire(uniqueKey())).rejects.toMatchObject({ reason: "pool-saturated" });
  let releases = 0;
  pool.on("release", () => {
    releases += 1;
    if (releases === 2) refuse();
  });
  client.release();
  await until(() => releases === 2);
  cutSocket(client);
});

function cutSocket(client: pg.PoolClient): void {
  (client as unknown as { connection: pg.Connection }).connection.stream.destroy();
}
