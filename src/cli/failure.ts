import { LockerError, LockNotAcquiredError } from "../index.ts";
import { exitStatus } from "./exit-status.ts";

/** What a person is told in a sentence, with the status that the process exits with. */
export class Failure extends Error {
  override readonly name = "Failure";
  readonly status: number;

  constructor(status: number, sentence: string, options?: ErrorOptions) {
    super(sentence, options);
    this.status = status;
  }
}

/** Arguments that can't be used. */
export function usageFailure(sentence: string): Failure {
  return new Failure(exitStatus.usage, sentence);
}

const usageCodes = new Set(["EMPTY_KEY", "INVALID_KEY", "INVALID_TTL", "INVALID_CONFIG"]);
const unavailableCodes = new Set([
  "CIRCUIT_OPEN",
  "DATABASE_ERROR",
  "LOCKS_NOT_KEPT",
  "POOLER_DETECTED",
  "SERVER_TOO_OLD",
  "STANDBY",
]);

/** Nobody else is known to have the lock. */
const unavailableReasons = new Set(["connection-timeout", "recovering"]);

/** The status that an error of any kind means. */
export function statusOf(error: unknown): number {
  if (error instanceof Failure) return error.status;
  if (error instanceof LockNotAcquiredError) {
    if (error.reason === "wait-timeout") return exitStatus.waitTimedOut;
    return unavailableReasons.has(error.reason) ? exitStatus.unavailable : exitStatus.notAcquired;
  }
  if (!(error instanceof LockerError)) return exitStatus.failed;
  if (usageCodes.has(error.code)) return exitStatus.usage;
  return unavailableCodes.has(error.code) ? exitStatus.unavailable : exitStatus.failed;
}
