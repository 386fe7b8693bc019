import type { AcquireOptions, Lock, PostgresLocker } from "../../src/index.ts";
import { uniqueKey } from "./database.ts";
import { createLocker } from "./locker.ts";
import { until } from "./until.ts";

// What the tests of many locks on one session are made of.

/** All at the same moment, each of a key of its own. */
export function acquireMany(
  locker: PostgresLocker,
  count: number,
  options?: AcquireOptions,
): Promise<Lock[]> {
  return Promise.all(Array.from({ length: count }, () => locker.acquire(uniqueKey(), options)));
}

/** The lock ids of handles, or of rows of `pg_locks`, in ascending order. */
export function sortedIds(some: readonly { readonly id: bigint }[]): bigint[] {
  return some.map(({ id }) => id).sort((a, b) => (a < b ? -1 : 1));
}

/** A lock that nobody refreshes: when it lapses, that many milliseconds have passed. */
export async function witnessOf(ttl: number): Promise<Lock> {
  const locker = createLocker({ sessions: "dedicated" });
  const lock = await locker.acquire(uniqueKey(), { ttl });
  void until(() => !lock.held, { deadline: ttl + 5_000 }).then(() => locker.close());
  return lock;
}

/** Runs no timer and no callback for that many milliseconds. */
export function blockFor(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}
