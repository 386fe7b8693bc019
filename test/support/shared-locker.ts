import type { AcquireOptions, Lock, PostgresLocker } from "../../src/index.ts";
import { uniqueKey } from "./database.ts";
import { createLocker } from "./locker.ts";
import { until } from "./until.ts";

// The building blocks for tests of many locks on one session.

/** Acquires that many locks at the same moment, each with a key of its own. */
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

/** Waits for that many milliseconds: until a lock that nobody refreshes has lapsed. */
export async function witnessOf(ttl: number): Promise<Lock> {
  const locker = createLocker({ sessions: "dedicated" });
  const lock = await locker.acquire(uniqueKey(), { ttl });
  void until(() => !lock.held, { deadline: ttl + 5_000 }).then(() => locker.close());
  return lock;
}

/** Blocks the event loop for that many milliseconds: no timer and no callback runs. */
export function blockFor(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}
