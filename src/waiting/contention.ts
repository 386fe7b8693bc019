import { LockNotAcquiredError } from "../contract/errors.ts";

const contention: ReadonlySet<string> = new Set(["held", "wait-timeout"]);

/** Turns the error that somebody else holds the lock into `undefined`. @throws any other error, unchanged */
export function undefinedIfContended(error: unknown): undefined {
  if (error instanceof LockNotAcquiredError && contention.has(error.reason)) return undefined;
  throw error;
}
