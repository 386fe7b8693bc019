import { toError } from "../contract/caught-error.ts";
import { DatabaseError, namedLockError } from "../contract/errors.ts";
import type { Value } from "../postgres/exchange.ts";
import type { NoSession } from "../postgres/reservation.ts";
import { type Session, statementDeadline } from "../postgres/session.ts";
import {
  freeing,
  isProof,
  isTaking,
  type Operation,
  type OperationAnswer,
  ownLocks,
  proving,
  readSharedAnswer,
  sharedStatement,
  taking,
} from "../postgres/sql-shared.ts";
import { afterMicrotasks, type Instant } from "../runtime/clock.ts";
import { debug, isDebugged } from "../runtime/debug-log.ts";
import type { LockRequest } from "./grant.ts";
import { sessionTimeout } from "./server-ttl.ts";
import type { SessionKeepalive } from "./session-keepalive.ts";
import { distrust } from "./trust.ts";

/** One operation on one lock, and who is told the outcome, once. */
export interface Task {
  readonly operation: Operation;
  readonly id: bigint;
  /** Absent if the operation is about the session alone. */
  readonly key: string | undefined;
  /** By `performance.now()`; set if the task has to wait until the session is open. */
  askedAt: number;
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

/** An open session. */
interface Opened {
  readonly session: Session;
  /** Its backend, which must stay the same. */
  readonly pid: number;
}

export interface StatementBatchesParts {
  readonly keepalive: SessionKeepalive;
  /** `application_name`, which must stay the same. */
  readonly name: string;
  /** How long the server is to keep the session from now on, in milliseconds. Absent if it keeps the session for ever. */
  readonly leaseWanted: (() => number) | undefined;
  /** Called when there is nothing more to send. */
  onIdle(): void;
}

/** At most this many operations go out in one statement, so that no answer takes long. */
const longestBatch = 1_000;
/** With more callers than this, the server serves one half of them while this process is busy with the other. */
const halvedAbove = 128;

const doing = "Asking a session";

//   opening ──▶ busy ──an answer──▶ gathering ──its callers have gone on, and have asked for nothing──▶ idle ──asked──▶ busy
//                                     └── they have asked ──▶ busy
//   The session ends, or there is none, in any of them: nothing is sent any more.
type State = { readonly is: "opening" } | { readonly is: "idle" | "gathering" | "busy"; readonly on: Opened };

/**
 * Queues the operations on one session, even before it is open. Those that arrive while a statement is under way go out together in the
 * next one, in order of arrival. So do those of the callers whom an answer has let go on, if there are few: one statement for all of them
 * costs less than one for the first of them and another for the rest. None of them ever waits in the server, so no lock delays another.
 */
export class StatementBatches {
  readonly #parts: StatementBatchesParts;
  #state: State = { is: "opening" };
  #tasks: Task[] = [];
  /** Index of the first task that has not been sent. */
  #next = 0;
  /** Callers of {@link idle}, which wait until nothing is under way. */
  #idlers: Array<() => void> = [];

  constructor(parts: StatementBatchesParts) {
    this.#parts = parts;
  }

  /** Queues a task, and tells it the outcome. An error is a {@link DatabaseError}, a {@link LockTableFullError} or the like. */
  ask(task: Task): void {
    const state = this.#state;
    if (state.is === "opening") {
      task.askedAt = performance.now();
      this.#tasks.push(task);
      return;
    }
    const gone = state.on.session.goneBecause;
    if (gone !== undefined) {
      notSent(task, gone);
      return;
    }
    this.#tasks.push(task);
    if (state.is === "idle") this.#flush(state.on);
  }

  /** Called when the session is open. */
  begin(on: Opened): void {
    this.#flush(on);
  }

  /** Called when there is no session. A task that came late, and has waited less than the others, may be asked again. */
  refuse(why: NoSession): void {
    for (const task of this.#takeAll()) {
      if (why.refused === "recovering") {
        task.undone(why);
        continue;
      }
      const own = performance.now() - task.askedAt;
      task.undone({ ...why, waited: Math.round(own), isEarly: own < why.waited * 0.9 });
    }
  }

  /** Called when no session could be opened. */
  fail(error: unknown): void {
    for (const task of this.#takeAll()) task.failed(named(error, task));
  }

  /** Called when the session has ended. */
  gone(cause: Error): void {
    for (const task of this.#takeAll()) notSent(task, cause);
  }

  #takeAll(): Task[] {
    const tasks = this.#tasks.slice(this.#next);
    this.#tasks = [];
    this.#next = 0;
    return tasks;
  }

  /** Resolves when nothing is queued or under way. */
  async idle(): Promise<void> {
    while (this.#state.is === "gathering" || this.#state.is === "busy") {
      await new Promise<void>((resolve) => {
        this.#idlers.push(resolve);
      });
    }
  }

  /** Sends what is queued. @param answered how many operations have just been answered */
  #flush(on: Opened, answered = 0): void {
    if (this.#next < this.#tasks.length) {
      const batch = this.#nextBatch(answered);
      if (batch.length > 0) {
        this.#state = { is: "busy", on };
        this.#send(on, batch);
        return;
      }
    }
    this.#state = { is: "idle", on };
    if (this.#idlers.length > 0) for (const resolve of this.#idlers.splice(0)) resolve();
    this.#parts.onIdle();
  }

  /** Tells the callers of a batch its answers. With few callers, what they ask for next goes out with what is queued. */
  #answered(on: Opened, batch: readonly Task[], answers: string | null, sentAt: Instant): void {
    if (batch.length + this.#tasks.length - this.#next > halvedAbove) {
      this.#flush(on, batch.length);
    } else {
      this.#state = { is: "gathering", on };
      // In the microtasks, all of them go on.
      afterMicrotasks(this.#sendGathered);
    }
    for (let at = 0; at < batch.length; at += 1) {
      (batch[at] as Task).done(answers?.[at] as OperationAnswer, sentAt);
    }
  }

  readonly #sendGathered = (): void => {
    if (this.#state.is === "gathering") this.#flush(this.#state.on);
  };

  #nextBatch(answered: number): Task[] {
    const callers = answered + this.#tasks.length - this.#next;
    const most = callers > halvedAbove ? Math.min(Math.ceil(callers / 2), longestBatch) : longestBatch;
    const batch: Task[] = [];
    while (batch.length < most && this.#next < this.#tasks.length) {
      const task = this.#tasks[this.#next] as Task;
      this.#next += 1;
      if (task.request?.abandoned) {
        task.undone("not wanted");
        continue;
      }
      // From here on, a caller that leaves leaves something to undo.
      if (task.request !== undefined) task.request.sent = true;
      batch.push(task);
    }
    // Not after each batch: with 100,000 callers, that would copy them a hundred times.
    if (this.#next * 2 > this.#tasks.length) {
      this.#tasks = this.#tasks.slice(this.#next);
      this.#next = 0;
    }
    return batch;
  }

  #send(on: Opened, batch: readonly Task[]): void {
    this.#post(on, batch, {
      answered: (answers, sentAt) => this.#answered(on, batch, answers, sentAt),
      failed: (error) => {
        if (on.session.goneBecause === undefined) {
          void this.#recover(on, batch, toError(error)).then(() => this.#flush(on));
          return;
        }
        for (const task of batch) task.failed(named(error, task));
        this.#flush(on);
      },
    });
  }

  #post(
    { session, pid }: Opened,
    batch: ReadonlyArray<Pick<Task, "operation" | "id">>,
    sender: { answered(answers: string | null, sentAt: Instant): void; failed(error: unknown): void },
  ): void {
    const { keepalive, name, leaseWanted } = this.#parts;
    const lease = leaseWanted?.();
    if (lease !== undefined) keepalive.asked(lease);
    if (isDebugged) debug("statement", () => ({ pid, operations: batch.length }));
    const asked = {
      doing,
      what: sharedStatement(batch),
      values: valuesOf(
        batch,
        lease === undefined || lease === Number.POSITIVE_INFINITY ? "0" : sessionTimeout(lease),
      ),
      deadline: statementDeadline,
    };
    session.send(asked, {
      replied: ({ value }, sentAt) => {
        const said = readSharedAnswer(String(value));
        const broken = distrust(said, { pid, name }, doing);
        if (broken === undefined) {
          keepalive.proven(lease, sentAt);
          sender.answered(said.answers, sentAt);
          return;
        }
        session.destroy(broken);
        keepalive.failed();
        sender.failed(broken);
      },
      failed: (error) => {
        keepalive.failed();
        sender.failed(error);
      },
    });
  }

  /**
   * Cleans up after a statement that failed half-way. The server has rolled its settings back, but session locks that it took stay
   * taken, and those that it freed stay free. So what it took is given back, and what it was to free is freed; that also proves what it
   * was to prove. Never rejects.
   */
  async #recover(on: Opened, batch: readonly Task[], error: Error): Promise<void> {
    const { session } = on;
    try {
      const looking = "Looking after a failed statement";
      const looked = await session.run<string[]>(looking, ownLocks, [], statementDeadline);
      const own = new Set(looked.said.map(BigInt));
      const left = batch.filter(({ operation, id }) =>
        isProof(operation) ? !isTaking(operation) : own.has(id),
      );
      const sentAt =
        left.length === 0
          ? looked.sentAt
          : await new Promise<Instant>((resolve, failed) => {
              this.#post(on, left.map(asFreeing), { answered: (_, sent) => resolve(sent), failed });
            });
      for (const task of batch) {
        if (isTaking(task.operation)) task.failed(named(error, task));
        else task.done(isProof(task.operation) ? "t" : "1", sentAt);
      }
    } catch (second) {
      session.destroy(toError(second));
      for (const task of batch) task.failed(named(error, task));
    }
  }
}

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
      askedAt: 0,
      request: undefined,
      done: (_, sentAt) => resolve(sentAt),
      undone: () => failed(new DatabaseError({ doing, cause: new Error("there was none") })),
      failed,
    });
  });
}

function valuesOf(batch: ReadonlyArray<Pick<Task, "operation" | "id">>, timeout: string): Value[] {
  const [only] = batch;
  if (batch.length === 1 && only !== undefined) {
    return only.operation === proving ? [timeout] : [timeout, only.id.toString()];
  }
  return [timeout, batch.map(({ id }) => id.toString()), batch.map(({ operation }) => operation)];
}

/** The error as the task's caller gets it: with what was being done, and the key. */
function named(error: unknown, { operation, key }: Task): unknown {
  if (!(error instanceof DatabaseError) || key === undefined) return namedLockError(error);
  const asked = isTaking(operation) ? "Taking" : isProof(operation) ? "Refreshing" : "Giving back";
  return namedLockError(new DatabaseError({ doing: `${asked} the lock`, key, cause: error.cause }));
}

/** Tells a task that its session ended before its turn came. */
function notSent(task: Task, cause: Error): void {
  if (isTaking(task.operation)) task.undone("not sent");
  else task.failed(named(new DatabaseError({ doing, cause }), task));
}

function asFreeing({ operation, id }: Task): Pick<Task, "operation" | "id"> {
  if (isProof(operation)) return { operation, id };
  const exclusive = operation === taking.exclusive || operation === freeing.exclusive;
  return { operation: exclusive ? freeing.exclusive : freeing.shared, id };
}
