import { codeOf, hasCode } from "../contract/caught-error.ts";
import { exitStatus } from "./exit-status.ts";

/** An error that is told to the user in one sentence, with the status that the process exits with. */
export class Failure extends Error {
  override readonly name = "Failure";
  readonly status: number;

  constructor(status: number, sentence: string, options?: ErrorOptions) {
    super(sentence, options);
    this.status = status;
  }
}

/** A failure because the arguments can't be used. */
export function usageFailure(sentence: string): Failure {
  return new Failure(exitStatus.usage, sentence);
}

/** A failure because there is no database that could be used. */
export function unavailableFailure(sentence: string): Failure {
  return new Failure(exitStatus.unavailable, sentence);
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

/** The exit status of each refusal. */
const refusals = {
  held: exitStatus.notAcquired,
  "still held": exitStatus.waitTimedOut,
  unknown: exitStatus.unavailable,
} as const;

/** Why a lock was refused: somebody else holds it, or still holds it after a wait; or it isn't known who does. `undefined`: no refusal. */
export function refusalOf(error: unknown): keyof typeof refusals | undefined {
  if (!(error instanceof Error) || codeOf(error) !== "LOCK_NOT_ACQUIRED") return undefined;
  const reason = "reason" in error ? error.reason : undefined;
  // If the wait ended during a fault, it isn't known who holds the lock.
  if (reason === "wait-timeout") return error.cause === undefined ? "still held" : "unknown";
  return reason === "connection-timeout" || reason === "recovering" ? "unknown" : "held";
}

/** The exit status for an error of any kind. */
export function statusOf(error: unknown): number {
  if (error instanceof Failure) return error.status;
  // Decided by the code, because loading the library's errors takes longer than many a command.
  const code = codeOf(error) ?? "";
  const refusal = refusalOf(error);
  if (refusal !== undefined) return refusals[refusal];
  if (usageCodes.has(code)) return exitStatus.usage;
  if (isMissingDriver(error)) return exitStatus.unavailable;
  return unavailableCodes.has(code) ? exitStatus.unavailable : exitStatus.failed;
}

/** `start.ts` has a copy, because it can import nothing. */
export const tooFewFiles =
  "Too few files may be open at once, by `ulimit -n` or in the whole system: raise the limit, to 256 or more";

export const tooFewProcesses =
  "Too few processes and threads may run at once, or there is too little memory, by `ulimit -u` and `ulimit -v` or in the whole system";

/** The sentence for an error of any kind. */
export function messageFor(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  if (/\b(EMFILE|ENFILE)\b/.test(text)) return tooFewFiles;
  if (/^spawn\S* .*\b(EAGAIN|ENOMEM)\b/.test(text)) return tooFewProcesses;
  // The error of Node.js has a stack of files in it.
  return isMissingDriver(error) ? needsDriver : text;
}

/** Whether `pg` is not installed: an application on postgres.js doesn't need it. */
function isMissingDriver(error: unknown): boolean {
  return hasCode(error, "MODULE_NOT_FOUND", "ERR_MODULE_NOT_FOUND") && /'pg'/.test(String(error));
}

const needsDriver =
  "The package `pg` (node-postgres) is not installed, which the command line needs: npm install pg";
