import { DatabaseError, namedLockError } from "../contract/errors.ts";
import type { NoSession } from "../postgres/reservation.ts";
import {
  freeing,
  isProof,
  isTaking,
  type Operation,
  type OperationAnswer,
  proving,
  taking,
} from "../postgres/sql-shared.ts";
import type { Instant } from "../runtime/clock.ts";
import type { LockRequest } from "./grant.ts";

/** What an error says was being done, unless the task says it better. */
export const doing = "Asking a session";

/** One operation on one lock, and who is told the outcome, once. */
export interface Task {
  readonly operation: Operation;
  readonly id: bigint;
  /** Absent if the operation is about the session alone. */
  readonly key: string | undefined;
  /** The request behind it: if that is abandoned before the task is sent, the task is left out. Absent if nobody can leave. */
  readonly request: LockRequest | undefined;
  done(answer: OperationAnswer, sentAt: Instant): void;
  /** The operation was not done, and nothing is wrong. */
  undone(why: Undone): void;
  /** It is not known whether the operation was done, but its effect is gone. */
  failed(error: unknown): void;
}

/**
 * Why an operation was not done: `"not wanted"` if its caller left before its turn came; `"not sent"` if its session ended first, so
 * that it can be tried on another one; or there was no session. With `isEarly`, it heard that early, and can be tried again as well.
 */
export type Undone = (NoSession & { readonly isEarly?: boolean }) | "not wanted" | "not sent";

/** What a task asks the server. */
export type Question = Pick<Task, "operation" | "id">;

/**
 * Asks a session to prove that it lives and is still the one that was opened.
 *
 * @param lock the lock that the proof is for, which the error names
 * @returns when the proof was asked for
 * @throws {DatabaseError} the session has ended @throws {StandbyError} @throws {PoolerDetectedError} it can't be trusted
 */
export function askForProof(
  session: { ask(task: Task): void },
  lock?: { readonly id: bigint; readonly key: string },
): Promise<Instant> {
  return new Promise((resolve, failed) => {
    session.ask({
      operation: proving,
      id: lock?.id ?? 0n,
      key: lock?.key,
      request: undefined,
      done: (_, sentAt) => resolve(sentAt),
      undone: () => failed(new DatabaseError({ doing, cause: new Error("no connection was available") })),
      failed,
    });
  });
}

/** The error as the task's caller gets it: with what was being done, and the key. */
export function taskError(error: unknown, { operation, key }: Task): unknown {
  if (!(error instanceof DatabaseError) || key === undefined) return namedLockError(error);
  const asked = isTaking(operation) ? "Taking" : isProof(operation) ? "Refreshing" : "Giving back";
  return namedLockError(new DatabaseError({ doing: `${asked} the lock`, key, cause: error.cause }));
}

/** Tells a task that its session ended before its turn came. */
export function notSent(task: Task, cause: Error): void {
  if (isTaking(task.operation)) task.undone("not sent");
  else task.failed(taskError(new DatabaseError({ doing, cause }), task));
}

export function asFreeing({ operation, id }: Task): Question {
  if (isProof(operation)) return { operation, id };
  const exclusive = operation === taking.exclusive || operation === freeing.exclusive;
  return { operation: exclusive ? freeing.exclusive : freeing.shared, id };
}
