import { LockNotAcquiredError } from "../contract/errors.ts";
import type { OwnHold } from "../contract/not-acquired-sentence.ts";
import { Alarm, monotonic } from "../runtime/clock.ts";
import type { Wanted } from "./attempt.ts";

/** Milliseconds that the first try of a wait may take even if the wait is shorter, so that a short wait gets a lock that is free. */
export const firstTry = 1_000;

/** A wait with a bound. */
export interface Bounded {
  /** When the wait began, by {@link monotonic}. */
  readonly start: number;
  /** Milliseconds; infinite if it has no bound. */
  readonly bound: number;
  /** Whether the first try is under way, or about to be. It may take {@link firstTry}, however short the wait is. */
  readonly isFirstTry: boolean;
  /** Called when the bound has passed. */
  atBound(): void;
}

/** Milliseconds until the bound. */
export function leftOf({ start, bound, isFirstTry }: Bounded): number {
  return start + (isFirstTry ? Math.max(bound, firstTry) : bound) - monotonic();
}

/** Makes an alarm that rings at the bound of a wait, and keeps the process alive until then. Reset it when the first try is over. */
export function boundAlarm(of: Bounded): Alarm<Bounded> {
  return new Alarm<Bounded>(of, leftOf, ring, keepsAlive);
}

const keepsAlive = { keepsAlive: true };

function ring(of: Bounded): void {
  of.atBound();
}

/** The error of a wait whose bound has passed. `lastFault`: the latest fault that it rode out. */
export function boundHasPassed(
  { key, wait, wholeWait = wait }: Wanted,
  around: { readonly hasConnected: boolean },
  { lastFault, ownHold }: { lastFault: Error | undefined; ownHold?: OwnHold | undefined },
): LockNotAcquiredError {
  const cause = lastFault ?? (around.hasConnected ? undefined : new Error("no answer"));
  return new LockNotAcquiredError({ key, reason: "wait-timeout", waited: wholeWait, ownHold, cause });
}
