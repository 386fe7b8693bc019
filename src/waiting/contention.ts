import { LockNotAcquiredError } from "../contract/errors.ts";

const contention: ReadonlySet<string> = new Set(["held", "wait-timeout"]);

/** For those who would rather have nothing than an error if somebody else holds the lock. @throws any other error, as it is */
export function undefinedIfContended(error: unknown): undefined {
  if (error instanceof LockNotAcquiredError && contention.has(error.reason)) return undefined;
  throw error;
}
