import assert from "node:assert/strict";
import { setTimeout as delay, setImmediate as nextTurn } from "node:timers/promises";
import type { Lock } from "../../contract/lock.ts";
import type { Locker } from "../../contract/locker.ts";

/**
 * Where a locker may differ. `"lapsed-lock-stays"`: a lock whose TTL passed goes to the next caller only after its holder
 * frees it. `"instance-local"`: two separately built lockers share nothing.
 */
export type LockerDeviation = "lapsed-lock-stays" | "instance-local";

/** How long time is let pass, in milliseconds. Shorter is quicker; too short for a busy machine, and cases fail for no fault. */
export interface ContractDurations {
  /** The TTL of a lock that is to lapse, and the bound of a wait that is to pass. @default 100 */
  readonly brief?: number;
  /** The TTL of a lock with which something is done before it lapses. @default 1000 */
  readonly spare?: number;
  /** How long a case waits for what has to happen, before it fails. @default 10000 */
  readonly patience?: number;
}

export interface LockerFixture {
  /** Grants at least eight locks at once. The suite closes it. */
  readonly locker: Locker;
  /** A second locker, built separately on the same store. The suite closes it. */
  readonly another?: () => Locker | Promise<Locker>;
  /** For a locker that is quicker than one with a server behind it, or slower. */
  readonly durations?: ContractDurations;
}

/** What a case works on: the key is its own. */
export interface Given extends Required<ContractDurations> {
  readonly locker: Locker;
  readonly key: string;
  another(): Promise<Locker>;
}

/** A sentence of the contract. */
export interface Case {
  readonly says: string;
  readonly unless?: LockerDeviation;
  /** If it mostly waits for a TTL, or for a bound, to pass: for which. */
  readonly letsPass?: "brief" | "spare";
  readonly run: (given: Given) => Promise<void>;
}

export const heldElsewhere = { code: "LOCK_NOT_ACQUIRED", reason: "held" };
export const waitTimeout = { code: "LOCK_NOT_ACQUIRED", reason: "wait-timeout" };
export const emptyKey = { code: "EMPTY_KEY" };
export const invalidTtl = { code: "INVALID_TTL" };
export const closed = { code: "LOCKER_CLOSED" };
export const notHeld = (reason: string) => ({ code: "LOCK_NOT_HELD", reason });
/** A function that must not run. */
export const never = (): never => assert.fail("the function ran without the lock");

export async function until(
  { patience }: Pick<Given, "patience">,
  probe: () => boolean | Promise<boolean>,
  what: string,
): Promise<void> {
  const end = performance.now() + patience;
  while (!(await probe())) {
    assert(performance.now() < end, `not within ${patience} ms: ${what}`);
    await delay(5);
  }
}

/** A lock whose TTL has passed. */
export async function lapsed(given: Given, { key = given.key, ttl = given.brief } = {}): Promise<Lock> {
  const lock = await given.locker.acquire(key, { ttl });
  await until(given, () => lock.expired, "the lock expires");
  return lock;
}

/** Lets more time pass than a lock with that TTL lives, by the locker's own clock. */
export async function pass(given: Given, ttl: number): Promise<void> {
  const witness = await lapsed(given, { key: `${given.key}:witness`, ttl: ttl * 1.1 });
  await witness[Symbol.asyncDispose]();
  await whatIsDue();
}

/** Lets every timer that is due by now ring, and what follows from that happen. */
export async function whatIsDue(): Promise<void> {
  await nextTurn();
  await nextTurn();
}

export async function assertFree(locker: Locker, key: string): Promise<void> {
  await (await locker.acquire(key)).release();
}

export async function assertRejectsWith(promise: Promise<unknown>, reason: unknown): Promise<void> {
  await assert.rejects(promise, (error) => error === reason);
}
