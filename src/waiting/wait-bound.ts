import { LockNotAcquiredError } from "../contract/errors.ts";
import { Alarm } from "../runtime/clock.ts";
import type { Wanted } from "./attempt.ts";

/** Milliseconds that the first try of a wait may take, however short the wait is: a lock that is free is worth that. */
export const firstTry = 1_000;

/** Who waits, and for how long. */
export interface Bounded {
  /** When the wait began, by `performance.now()`. */
  readonly start: number;
  /** Milliseconds; infinite: without a bound. */
  readonly bound: number;
  /** The first try is under way, or about to be: it may take {@link firstTry}, however short the wait is. */
  readonly isFirstTry: boolean;
  /** The bound has passed. */
  atBound(): void;
}

/** Milliseconds until the bound. */
export function leftOf({ start, bound, isFirstTry }: Bounded): number {
  return start + (isFirstTry ? Math.max(bound, firstTry) : bound) - performance.now();
}

/** Rings at the bound of a wait; to be reset when the first try is over. */
export function boundAlarm(of: Bounded): Alarm<Bounded> {
  return new Alarm<Bounded>(of, leftOf, ring);
}

function ring(of: Bounded): void {
  of.atBound();
}

/** What a wait ends with at its bound. `lastFault`: the last that it rode out. */
export function boundHasPassed(
  { key, wait }: Wanted,
  around: { readonly hasConnected: boolean },
  { lastFault, reentrant = false }: { lastFault: Error | undefined; reentrant?: boolean },
): LockNotAcquiredError {
  const cause = lastFault ?? (around.hasConnected ? undefined : new Error("no answer"));
  return new LockNotAcquiredError({ key, reason: "wait-timeout", waited: wait, reentrant, cause });
}
