// What fits an option, and what does not. Checked by `tsc`, never run: an error that goes missing is an error.
import { ConsecutiveBreaker, circuitBreaker, handleAll } from "cockatiel";
import pg from "pg";
import postgres from "postgres";
import { type Lock, type Locker, type Logger, PostgresLocker } from "../../src/index.ts";
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
      sql: postgres("", { types: { bigint: postgres.BigInt }, transform: postgres.camel }),
    }),
  ];
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
