import { codeOf } from "../contract/caught-error.ts";
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

/** Why a lock was not acquired, though nobody else is known to have it. */
const unavailableReasons: ReadonlySet<unknown> = new Set(["connection-timeout", "recovering"]);

/** The status that an error of any kind means. */
export function statusOf(error: unknown): number {
  if (error instanceof Failure) return error.status;
  // By their codes: to load the library's errors takes longer than many a command.
  const code = codeOf(error) ?? "";
  if (code === "LOCK_NOT_ACQUIRED") {
    const reason = error instanceof Error && "reason" in error ? error.reason : undefined;
    // A wait that ended in spite of a fault that it was riding out says nothing of who has the lock.
    const isFault = error instanceof Error && error.cause !== undefined;
    if (reason === "wait-timeout") return isFault ? exitStatus.unavailable : exitStatus.waitTimedOut;
    return unavailableReasons.has(reason) ? exitStatus.unavailable : exitStatus.notAcquired;
  }
  if (usageCodes.has(code)) return exitStatus.usage;
  return unavailableCodes.has(code) ? exitStatus.unavailable : exitStatus.failed;
}

/** `start.ts` has the same, as it can load nothing. */
export const tooFewFiles =
  "Too few files may be open at once, by `ulimit -n` or in the whole system: raise the limit, to 256 or more";

/** What is said of an error of any kind. */
export function messageFor(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return /\b(EMFILE|ENFILE)\b/.test(text) ? tooFewFiles : text;
}
