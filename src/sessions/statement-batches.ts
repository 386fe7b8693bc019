import { toError } from "../contract/caught-error.ts";
import { DatabaseError } from "../contract/errors.ts";
import { arrayOf, type Reply } from "../postgres/exchange.ts";
import type { NoSession } from "../postgres/reservation.ts";
import { type Asked, type Receiver, type Session, statementDeadline } from "../postgres/session.ts";
import {
  type ExpectedFrame,
  expectedAnswers,
  expectedFrame,
  forOne,
  forSeveral,
  isProof,
  isTaking,
  type OperationAnswer,
  ownLocks,
  proving,
  readSharedAnswer,
} from "../postgres/sql-shared.ts";
import { afterMicrotasks, type Instant } from "../runtime/clock.ts";
import { debug, isDebugged } from "../runtime/debug-log.ts";
import { sessionTimeout } from "./server-ttl.ts";
import type { SessionKeepalive } from "./session-keepalive.ts";
import { asFreeing, doing, notSent, type Question, type Task, taskError } from "./task.ts";
import { distrust } from "./trust.ts";

/** An open session. */
interface Opened {
  readonly session: Session;
  /** Its backend, which must stay the same. */
  readonly pid: number;
  readonly expected: ExpectedFrame;
}

/** A task that waits until the session is open, and when it was asked, by `performance.now()`. */
interface Early {
  readonly task: Task;
  readonly at: number;
}

/** A statement under way, and the tasks whose operations it carries. */
interface Batch {
  readonly tasks: readonly Task[];
  /** For how long the statement has the server keep the session, in milliseconds. Absent if it says nothing of that. */
  readonly sessionTtl: number | undefined;
}

export interface StatementBatchesParts {
  readonly keepalive: SessionKeepalive;
  /** `application_name`, which must stay the same. */
  readonly name: string;
  /** How long the server is to keep the session from now on, in milliseconds. Absent if it keeps the session for ever. */
  readonly sessionTtlWanted: (() => number) | undefined;
  /** Called when there is nothing more to send. */
  onIdle(): void;
}

/** At most this many operations go out in one statement, so that no answer takes long. */
const longestBatch = 1_000;
/** With more callers than this, the server serves one half of them while this process is busy with the other. */
const halvedAbove = 128;

//   opening ──▶ busy ──an answer──▶ gathering ──its callers have gone on, and have asked for nothing──▶ idle ──asked──▶ busy
//                                     └── they have asked ──▶ busy
//   The session ends, or there is none, in any of them: nothing is sent any more.
type State =
  | { readonly is: "opening"; readonly early: Early[] }
  | { readonly is: "idle" | "gathering"; readonly on: Opened }
  | { readonly is: "busy"; readonly on: Opened; readonly batch: Batch };

/**
 * Queues the operations on one session, even before it is open. Those that arrive while a statement is under way go out together in the
 * next one, in order of arrival. So do those of the callers whom an answer has let go on, if there are few: one statement for all of them
 * costs less than one for the first of them and another for the rest. None of them ever waits in the server, so no lock delays another.
 */
export class StatementBatches implements Receiver {
  readonly #parts: StatementBatchesParts;
  #state: State = { is: "opening", early: [] };
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
      state.early.push({ task, at: performance.now() });
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
  begin({ session, pid }: Pick<Opened, "session" | "pid">): void {
    this.#tasks = this.#takeEarly().map(({ task }) => task);
    this.#flush({ session, pid, expected: expectedFrame({ pid, name: this.#parts.name }) });
  }

  /** Called when there is no session. A task that came late, and has waited less than the others, may be asked again. */
  refuse(why: NoSession): void {
    for (const { task, at } of this.#takeEarly()) {
      if (why.refused === "recovering") {
        task.undone(why);
        continue;
      }
      const own = performance.now() - at;
      task.undone({ ...why, waited: Math.round(own), isEarly: own < why.waited * 0.9 });
    }
  }

  /** Called when no session could be opened. */
  fail(error: unknown): void {
    for (const { task } of this.#takeEarly()) task.failed(taskError(error, task));
  }

  /** Called when the session has ended. */
  gone(cause: Error): void {
    const tasks = this.#tasks.slice(this.#next);
    this.#tasks = [];
    this.#next = 0;
    for (const task of tasks) notSent(task, cause);
  }

  #takeEarly(): Early[] {
    return this.#state.is === "opening" ? this.#state.early.splice(0) : [];
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
    while (this.#next < this.#tasks.length) {
      const tasks = this.#nextTasks(answered);
      if (tasks.length > 0) {
        const sessionTtl = this.#parts.sessionTtlWanted === undefined ? undefined : this.#sessionTtlToSet();
        this.#state = { is: "busy", on, batch: { tasks, sessionTtl } };
        on.session.send(statementFor(tasks, { pid: on.pid, sessionTtl }), this);
        return;
      }
    }
    this.#state = { is: "idle", on };
    if (this.#idlers.length > 0) for (const resolve of this.#idlers.splice(0)) resolve();
    this.#parts.onIdle();
  }

  /** Called by the {@link Session}. Tells the callers of a batch its answers. With few, what they ask for next goes out with the rest. */
  replied(reply: Reply, sentAt: Instant): void {
    if (this.#state.is !== "busy") return;
    const { on, batch } = this.#state;
    const { tasks, sessionTtl } = batch;
    const answers = expectedAnswers(String(reply.value), on.expected, tasks.length);
    if (answers === undefined) {
      this.failed(this.#distrust(on, reply));
      return;
    }
    this.#parts.keepalive.proven(sessionTtl, sentAt);
    if (tasks.length + this.#tasks.length - this.#next > halvedAbove) {
      this.#flush(on, tasks.length);
    } else {
      this.#state = { is: "gathering", on };
      // In the microtasks, all of them go on.
      afterMicrotasks(this.#sendGathered);
    }
    for (let at = 0; at < tasks.length; at += 1) {
      (tasks[at] as Task).done(answers[at] as OperationAnswer, sentAt);
    }
  }

  /** Called by the {@link Session}. */
  failed(error: Error): void {
    if (this.#state.is !== "busy") return;
    const { on, batch } = this.#state;
    this.#parts.keepalive.failed();
    if (on.session.goneBecause === undefined) {
      void this.#recover(on, batch.tasks, error).then(() => this.#flush(on));
      return;
    }
    for (const task of batch.tasks) task.failed(taskError(error, task));
    this.#flush(on);
  }

  readonly #sendGathered = (): void => {
    if (this.#state.is === "gathering") this.#flush(this.#state.on);
  };

  /** Takes a batch from the queue: usually all of it. It may be empty, because those whose callers have left are left out. */
  #nextTasks(answered: number): Task[] {
    const queued = this.#tasks.length - this.#next;
    const callers = answered + queued;
    const most = callers > halvedAbove ? Math.min(Math.ceil(callers / 2), longestBatch) : longestBatch;
    let batch = this.#tasks;
    if (this.#next === 0 && queued <= most) {
      this.#tasks = [];
    } else {
      batch = batch.slice(this.#next, this.#next + most);
      this.#next += batch.length;
      // Not after each batch: with 100,000 callers, that would copy them a hundred times.
      if (this.#next * 2 > this.#tasks.length) {
        this.#tasks = this.#tasks.slice(this.#next);
        this.#next = 0;
      }
    }
    let wanted = 0;
    for (const task of batch) {
      if (task.request?.abandoned) {
        task.undone("not wanted");
        continue;
      }
      // From here on, a caller that leaves leaves something to undo.
      if (task.request !== undefined) task.request.sent = true;
      batch[wanted] = task;
      wanted += 1;
    }
    batch.length = wanted;
    return batch;
  }

  #sessionTtlToSet(): number | undefined {
    const sessionTtl = this.#parts.sessionTtlWanted?.();
    if (sessionTtl !== undefined) this.#parts.keepalive.asked(sessionTtl);
    return sessionTtl;
  }

  /** Ends a session whose answer doesn't prove it. @returns why */
  #distrust({ session, pid }: Opened, { value }: Reply): Error {
    const said = readSharedAnswer(String(value));
    const cause = new Error(`an unexpected answer: ${value}`);
    const broken =
      distrust(said, { pid, name: this.#parts.name }, doing) ?? new DatabaseError({ doing, cause });
    session.destroy(broken);
    return broken;
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
      const sentAt = left.length === 0 ? looked.sentAt : await this.#askAgain(on, left.map(asFreeing));
      for (const task of batch) {
        if (isTaking(task.operation)) task.failed(taskError(error, task));
        else task.done(isProof(task.operation) ? "t" : "1", sentAt);
      }
    } catch (second) {
      session.destroy(toError(second));
      for (const task of batch) task.failed(taskError(error, task));
    }
  }

  /** Asks as a batch does, without its tasks. @returns when it was sent @throws {DatabaseError} {StandbyError} {PoolerDetectedError} */
  #askAgain(on: Opened, questions: readonly Question[]): Promise<Instant> {
    const { keepalive } = this.#parts;
    const sessionTtl = this.#sessionTtlToSet();
    return new Promise((resolve, reject) => {
      const failed = (error: Error): void => {
        keepalive.failed();
        reject(error);
      };
      const replied = (reply: Reply, sentAt: Instant): void => {
        if (expectedAnswers(String(reply.value), on.expected, questions.length) === undefined) {
          failed(this.#distrust(on, reply));
          return;
        }
        keepalive.proven(sessionTtl, sentAt);
        resolve(sentAt);
      };
      on.session.send(statementFor(questions, { pid: on.pid, sessionTtl }), { replied, failed });
    });
  }
}

function statementFor(
  questions: readonly Question[],
  { pid, sessionTtl }: { pid: number; sessionTtl: number | undefined },
): Asked {
  const timeout =
    sessionTtl === undefined || sessionTtl === Number.POSITIVE_INFINITY ? "0" : sessionTimeout(sessionTtl);
  if (isDebugged) debug("statement", { pid, operations: questions.length });
  const [only] = questions;
  if (questions.length === 1 && only !== undefined) {
    const values = only.operation === proving ? [timeout] : [timeout, only.id.toString()];
    return { doing, what: forOne[only.operation], values, deadline: statementDeadline };
  }
  const ids = arrayOf(questions.map(({ id }) => id.toString()));
  const letters = arrayOf(questions.map(({ operation }) => operation));
  return { doing, what: forSeveral, values: [timeout, ids, letters], deadline: statementDeadline };
}
