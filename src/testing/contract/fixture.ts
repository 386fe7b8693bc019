import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import type { Locker } from "../../contract/locker.ts";

/**
 * Where a locker may differ. `"lapsed-lock-stays"`: a lock whose TTL passed goes to the next caller only after its holder
 * frees it. `"instance-local"`: two separately built lockers share nothing.
 */
export type LockerDeviation = "lapsed-lock-stays" | "instance-local";

/** What a case works on: the key is its own. */
export interface Given {
  readonly locker: Locker;
  readonly key: string;
  another(): Promise<Locker>;
}

/** A sentence of the contract. */
export interface Case {
  readonly says: string;
  readonly unless?: LockerDeviation;
  readonly run: (given: Given) => Promise<void>;
}

export const heldElsewhere = { code: "LOCK_NOT_ACQUIRED", reason: "held" };
export const closed = { code: "LOCKER_CLOSED" };
export const notHeld = (reason: string) => ({ code: "LOCK_NOT_HELD", reason });
/** Milliseconds, for a lock that is to lapse. */
export const brief = 100;
/** Milliseconds, for a lock that is used first and then outlives its TTL. */
export const spare = 1_000;

export async function until(probe: () => boolean | Promise<boolean>, what: string): Promise<void> {
  const end = performance.now() + 10_000;
  while (!(await probe())) {
    assert(performance.now() < end, `not within 10 s: ${what}`);
    await delay(5);
  }
}

export async function lapsed({ locker, key }: Given, ttl = brief) {
  const lock = await locker.acquire(key, { ttl });
  await until(() => lock.expired, "the lock expires");
  return lock;
}

export async function assertFree(locker: Locker, key: string): Promise<void> {
  await (await locker.acquire(key)).release();
}

export async function assertRejectsWith(promise: Promise<unknown>, reason: unknown): Promise<void> {
  await assert.rejects(promise, (error) => error === reason);
}
