import assert from "node:assert/strict";
import { setTimeout as delay, setImmediate as nextTurn } from "node:timers/promises";
import type { Lock } from "../../contract/lock.ts";
import type { Locker } from "../../contract/locker.ts";

/**
 * How a locker may differ from the contract. `"lapsed-lock-stays"`: an expired lock goes to the next caller only after its holder frees
 * it. `"instance-local"`: two separately built lockers share nothing.
 */
export type LockerDeviation = "lapsed-lock-stays" | "instance-local";

/** How long the cases let time pass, in milliseconds. Short durations make the suite quick, but may fail on a busy machine. */
export interface ContractDurations {
  /** The TTL of a lock that the case lets lapse, and the bound of a wait that it lets pass. @default 100 */
  readonly brief?: number;
  /** The TTL of a lock that the case uses before it lapses. @default 1000 */
  readonly spare?: number;
  /** How long a case waits for an expected event before it fails. A case that hasn't ended after three times as long fails, too. @default 10000 */
  readonly patience?: number;
}

export interface LockerFixture {
  /** The locker to test. It must be able to grant at least eight locks at once. The suite closes it. */
  readonly locker: Locker;
  /**
   * A second locker, built separately on the same store. The suite closes it.
   *
   * @default none: then the suite needs the deviation `"instance-local"`
   */
  readonly another?: () => Locker | Promise<Locker>;
  /**
   * Other durations, for a locker that is quicker or slower than one with a server.
   *
   * @default those of {@link ContractDurations}
   */
  readonly durations?: ContractDurations;
}

/** What a case works with: a locker, and a key that no other case uses. */
export interface Given extends Required<ContractDurations> {
  readonly locker: Locker;
  readonly key: string;
  another(): Promise<Locker>;
}

/** One sentence of the contract, and the test of it. */
export interface Case {
  readonly says: string;
  readonly unless?: LockerDeviation;
  /** The duration that the case mostly waits for, if it waits for a TTL or the bound of a wait to pass. */
  readonly letsPass?: "brief" | "spare";
  readonly run: (given: Given) => Promise<void>;
}

export const heldElsewhere = { code: "LOCK_NOT_ACQUIRED", reason: "held" };
export const waitTimeout = { code: "LOCK_NOT_ACQUIRED", reason: "wait-timeout" };
export const emptyKey = { code: "EMPTY_KEY" };
export const invalidTtl = { code: "INVALID_TTL" };
export const invalidKey = { code: "INVALID_KEY" };
export const closed = { code: "LOCKER_CLOSED" };
export const invalid = (field: string) => ({ code: "INVALID_CONFIG", field });
export const notHeld = (reason: string) => ({ code: "LOCK_NOT_HELD", reason });
/** A function that fails the test if it is called. */
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

/**
 * Takes a lock with a short TTL. On a busy machine the TTL may pass before the answer comes, and the locker then rejects with a
 * `DatabaseError`: the lock is asked for again.
 */
export async function inTime<T>({ patience }: Pick<Given, "patience">, take: () => Promise<T>): Promise<T> {
  const end = performance.now() + patience;
  for (;;) {
    try {
      return await take();
    } catch (error) {
      if ((error as { code?: unknown }).code !== "DATABASE_ERROR" || performance.now() > end) throw error;
    }
  }
}

/** Acquires a lock and waits until its TTL has passed. */
export async function lapsed(given: Given, { key = given.key, ttl = given.brief } = {}): Promise<Lock> {
  const lock = await inTime(given, () => given.locker.acquire(key, { ttl }));
  await until(given, () => lock.expired, "the lock expires");
  return lock;
}

/** Waits for longer than a lock with this TTL lasts, by the locker's own clock. */
export async function pass(given: Given, ttl: number): Promise<void> {
  const witness = await lapsed(given, { key: `${given.key}:witness`, ttl: ttl * 1.1 });
  await witness[Symbol.asyncDispose]();
  await whatIsDue();
}

/** Lets every timer that is due fire, and lets its consequences happen. */
export async function whatIsDue(): Promise<void> {
  await nextTurn();
  await nextTurn();
}

export async function assertFree(locker: Pick<Locker, "acquire">, key: string): Promise<void> {
  await (await locker.acquire(key)).release();
}

export async function assertRejectsWith(promise: Promise<unknown>, reason: unknown): Promise<void> {
  await assert.rejects(promise, (error) => error === reason);
}

/** The ways in which a function fails, each with `error`. */
export function failures(error: unknown): ReadonlyArray<() => Promise<never>> {
  return [
    () => {
      throw error;
    },
    () => Promise.reject(error),
  ];
}

/** A call whose function goes on until it is told to end. */
export interface UnderWay<T> {
  /** What the call resolves with. */
  readonly running: Promise<T>;
  readonly end: () => void;
}

/** Begins a call whose function awaits `work`. Resolves once the function does that; rejects if the call fails before. */
export async function underWay<T>(begin: (work: () => Promise<void>) => Promise<T>): Promise<UnderWay<T>> {
  let end = (): void => {};
  const untilEnd = new Promise<void>((resolve) => {
    end = resolve;
  });
  return await new Promise((resolve, reject) => {
    const running = begin(async () => {
      // In a step of its own: `running` isn't there yet.
      queueMicrotask(() => resolve({ running, end }));
      await untilEnd;
    });
    running.catch(reject);
  });
}
