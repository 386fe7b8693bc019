// What fits an option, and what does not. Checked by `tsc`, never run: an error that goes missing is an error.

import { metrics, trace } from "@opentelemetry/api";
import { ConsecutiveBreaker, circuitBreaker, handleAll } from "cockatiel";
import pg from "pg";
import postgres from "postgres";
import {
  type Lock,
  type Locker,
  type Logger,
  MemoryLocker,
  PostgresLocker,
  sha256LockId,
} from "../../src/index.ts";
import { type LockerDeviation, testLockerContract } from "../../src/testing/index.ts";

declare const locker: Locker;
declare const lock: Lock;
declare const pinoLike: Record<"debug" | "info" | "warn" | "error", (facts: object, text?: string) => void>;

export function compiles(): readonly PostgresLocker[] {
  const pool = new pg.Pool();
  const breaker = circuitBreaker(handleAll, { halfOpenAfter: 500, breaker: new ConsecutiveBreaker(5) });
  const logger: Logger = console;
  return [
    new PostgresLocker({ pool, logger, circuitBreaker: breaker }),
    new PostgresLocker({ database: { write: pool, read: pool }, logger: pinoLike }),
    new PostgresLocker({ sql: postgres() }),
    new PostgresLocker({
      pool,
      tracerProvider: trace.getTracerProvider(),
      meterProvider: metrics.getMeterProvider(),
    }),
    new PostgresLocker({
      sql: postgres("", { types: { bigint: postgres.BigInt }, transform: postgres.camel }),
    }),
  ];
}

export async function scopesCompile(client: pg.Client, pooled: pg.PoolClient): Promise<string> {
  const postgres = new PostgresLocker({
    pool: new pg.Pool(),
    lockId: sha256LockId,
    defaults: { ttl: "1m", wait: true },
  });
  new MemoryLocker({
    lockId: (namespace, key) => BigInt(namespace + key.length),
    defaults: { autoRefresh: true },
  });
  await locker.acquire(new Uint8Array([255]), { client });
  await locker.acquire(Buffer.of(255), { client: pooled, reentrant: true });
  const held: boolean = await locker.withLocks(["a", Buffer.of(255)], (locks) => locks.held);
  const group = await locker.tryAcquireAll(["a"]);
  const until: Date | undefined = group?.expiresAt;
  // The function takes the arguments of its key's function, and its result comes as a promise.
  const add = locker.wrapWithLock(
    (account: string) => `account:${account}`,
    (account: string, amount: number) => account.length + amount,
  );
  const sum: number = await add("7", 42);
  const stop: () => void = locker.on("lost", ({ key, reason }) =>
    console.error(key, reason.message, held, until, sum),
  );
  stop();
  await postgres
    .namespace("billing")
    .namespace("eu")
    .withTransaction("k", (tx) => tx.query("select 1"));
  const { holders, waiters } = await locker.inspect("k", { signal: AbortSignal.timeout(5) });
  return `${holders[0]?.own} ${waiters[0]?.since}`;
}

declare function takesText(id: string): void;

export async function scopesDoNotCompile(): Promise<void> {
  const add = locker.wrapWithLock("k", (account: string) => account);
  // @ts-expect-error the function has one argument
  await add("7", 42);
  // @ts-expect-error the key is made of arguments that the function doesn't get
  locker.wrapWithLock((id: number) => `${id}`, takesText);
  // @ts-expect-error a namespace has no end of its own
  await locker.namespace("billing").close();
  // @ts-expect-error there is no such event
  locker.on("acquire", () => {});
  // @ts-expect-error a lock that was released has no reason
  locker.on("released", ({ reason }) => reason);
  // @ts-expect-error a number is no session
  await locker.acquire("k", { client: 7 });
  // @ts-expect-error an id is a bigint
  new MemoryLocker({ lockId: () => 7 });
  // @ts-expect-error a default that there is not
  new MemoryLocker({ defaults: { fencing: true } });
  // @ts-expect-error a group may not have been taken
  (await locker.tryAcquireAll(["a"])).held;
}

export async function doesNotCompile(): Promise<void> {
  // @ts-expect-error a mode that there is not
  await locker.acquire("key", { mode: "read" });
  // @ts-expect-error a permit has no readers
  await locker.semaphore("key", 2).acquire({ mode: "shared" });
  // @ts-expect-error somebody has to lead
  await locker.elect("key", {});
  // @ts-expect-error a ttl is not an object
  await locker.acquire("key", { ttl: { seconds: 30 } });
  // @ts-expect-error the key of a lock is read, not written
  lock.key = "other";
  // @ts-expect-error a client is not a pool
  new PostgresLocker({ pool: new pg.Client() });
  // @ts-expect-error nor is the function that makes a `sql`
  new PostgresLocker({ sql: postgres });
  // @ts-expect-error nor a transaction of it
  await postgres().begin((sql) => new PostgresLocker({ sql }).close());
  // @ts-expect-error a deviation that there is not
  const deviation: LockerDeviation = "no-ping";
  // @ts-expect-error a contract needs a runner
  testLockerContract("locker", { create: async () => ({ locker }), deviations: [deviation] });
}
