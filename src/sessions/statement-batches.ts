import { DatabaseError, namedLockError } from "../contract/errors.ts";
import type { Value } from "../postgres/exchange.ts";
import type { NoSession } from "../postgres/reservation.ts";
import { type Session, statementDeadline } from "../postgres/session.ts";
import {
  freeing,
  joining,
  type Operation,
  type OperationAnswer,
  ownLocks,
  proving,
  readSharedAnswer,
  type SharedAnswer,
  sharedStatement,
  taking,
} from "../postgres/sql-shared.ts";
import type { Instant } from "../runtime/clock.ts";
import type { LockRequest } from "./grant.ts";
import { sessionTimeout } from "./server-ttl.ts";
import type { SessionLease } from "./session-keepalive.ts";
import { distrust } from "./trust.ts";

/** What became of an operation. */
export interface Done {
  readonly answer: OperationAnswer;
  readonly sentAt: Instant;
}

/** A lock, as an operation is asked for; without a key, the session alone is meant. */
export interface OperationOn {
  readonly id: bigint;
  readonly key?: string;
}

interface Task {
  readonly operation: Operation;
  readonly id: bigint;
  readonly key: string | undefined;
  /** By `performance.now()`. */
  readonly askedAt: number;
  /** Whose it is: given up where that is abandoned by the time it could be sent. Absent where nobody can. */
  readonly request: LockRequest | undefined;
  resolve(done: Outcome): void;
  reject(error: unknown): void;
}

/**
 * What becomes of a task without an error: `"not wanted"` if its caller has left before its turn came, `"not sent"` if its session has
 * gone before, so that it can be asked again on another; so it can if there was no session, and it came early to hear so.
 */
export type Outcome = Done | (NoSession & { readonly isEarly?: boolean }) | "not wanted" | "not sent";

/** A session that is open. */
interface Opened {
  readonly session: Session;
  /** Of its backend, which must stay the same. */
  readonly pid: number;
}

export interface OperationsParts {
  readonly lease: SessionLease;
  /** `application_name`, which must stay the same. */
  readonly name: string;
  /** Milliseconds that the server is to keep the session from now on; `Infinity`: for ever. */
  leaseWanted(): number;
  /** There is nothing more to send. */
  onIdle(): void;
}

/** So many go out in one statement at most, that no answer takes long. */
const longestBatch = 1_000;
/** More callers than this are served in two halves: one by the server, while this process is busy with the other. */
const halvedAbove = 128;

/**
 * What is asked of one session, before it is open and then. What comes while a statement is under way goes out together in the
 * next one, in the order in which it came; nothing ever waits in the server, so that no lock holds up another.
 */
export class Operations {
  readonly #parts: OperationsParts;
  #tasks: Task[] = [];
  /** The place of the first of them that has not been sent. */
  #next = 0;
  #opened: Opened | undefined;
  #isBusy = false;
  /** Settles when the last statement has been answered; never rejects. */
  #underWay: Promise<void> = Promise.resolve();

  constructor(parts: OperationsParts) {
    this.#parts = parts;
  }

  /**
   * @param request on whose behalf
   * @throws {DatabaseError} the session has gone, or the operation failed: then it has not taken effect
   * @throws {LockTableFullError} @throws {StandbyError} @throws {PoolerDetectedError}
   */
  ask(operation: Operation, { id, key }: OperationOn, request?: LockRequest): Promise<Outcome> {
    return new Promise((resolve, reject) => {
      const task = { operation, id, key, askedAt: performance.now(), request, resolve, reject };
      const gone = this.#opened?.session.goneBecause;
      if (gone !== undefined) {
        notSent(task, gone);
        return;
      }
      this.#tasks.push(task);
      this.#flush();
    });
  }

  /** The session is open. */
  begin(opened: Opened): void {
    this.#opened = opened;
    this.#flush();
  }

  /** There is no session. Whoever came late, and so has not waited as long as the others, may ask again. */
  refuse(why: NoSession): void {
    for (const task of this.#takeAll()) {
      if (why.refused === "recovering") {
        task.resolve(why);
        continue;
      }
      const own = performance.now() - task.askedAt;
      task.resolve({ ...why, waited: Math.round(own), isEarly: own < why.waited * 0.9 });
    }
  }

  /** None could be opened. */
  fail(error: unknown): void {
    for (const task of this.#takeAll()) task.reject(named(error, task));
  }

  /** It has gone. */
  gone(cause: Error): void {
    for (const task of this.#takeAll()) notSent(task, cause);
  }

  #takeAll(): Task[] {
    const tasks = this.#tasks.slice(this.#next);
    this.#tasks = [];
    this.#next = 0;
    return tasks;
  }

  /** Resolves when nothing is under way, in the very step in which that is so. */
  async idle(): Promise<void> {
    do await this.#underWay;
    while (this.#isBusy);
  }

  /** Sends what waits, if it can go. `answered`: to how many the answer has just come. */
  #flush(answered = 0): void {
    const opened = this.#opened;
    if (this.#isBusy || opened === undefined) return;
    const batch = this.#nextBatch(answered);
    if (batch.length === 0) {
      this.#parts.onIdle();
      return;
    }
    this.#isBusy = true;
    this.#underWay = this.#send(opened, batch);
  }

  #nextBatch(answered: number): Task[] {
    const callers = answered + this.#tasks.length - this.#next;
    const most = callers > halvedAbove ? Math.min(Math.ceil(callers / 2), longestBatch) : longestBatch;
    const batch: Task[] = [];
    while (batch.length < most) {
      const task = this.#tasks[this.#next];
      if (task === undefined) break;
      this.#next += 1;
      if (task.request?.abandoned) {
        task.resolve("not wanted");
        continue;
      }
      // From here on a caller can't leave without something to be undone.
      if (task.request !== undefined) task.request.sent = true;
      batch.push(task);
    }
    // Not at each batch: with 100,000 callers, that would copy them a hundred times.
    if (this.#next * 2 > this.#tasks.length) {
      this.#tasks = this.#tasks.slice(this.#next);
      this.#next = 0;
    }
    return batch;
  }

  /** Never rejects. */
  async #send(opened: Opened, batch: readonly Task[]): Promise<void> {
    let answer: { said: SharedAnswer; sentAt: Instant };
    try {
      answer = await this.#run(opened, batch);
    } catch (error) {
      if (opened.session.goneBecause === undefined) await this.#recover(opened, batch, error as Error);
      else for (const task of batch) task.reject(named(error, task));
      this.#isBusy = false;
      this.#flush();
      return;
    }
    // First the next ones: the server is at work on them while these callers are at work on their answers.
    this.#isBusy = false;
    this.#flush(batch.length);
    const { said, sentAt } = answer;
    batch.forEach((task, at) => {
      task.resolve({ answer: said.answers?.[at] as OperationAnswer, sentAt });
    });
  }

  async #run(
    { session, pid }: Opened,
    batch: readonly Task[],
  ): Promise<{ said: SharedAnswer; sentAt: Instant }> {
    const { lease, name } = this.#parts;
    const operations = batch.map(({ operation }) => operation);
    const statement = sharedStatement(operations);
    const wanted = this.#parts.leaseWanted();
    const values: Value[] = [Number.isFinite(wanted) ? sessionTimeout(wanted) : "0"];
    const ids = batch.map(({ id }) => id.toString());
    if (batch.length > 1) values.push(ids, operations);
    else if (operations[0] !== proving) values.push(...ids);
    lease.asked(wanted);
    try {
      const answer = await session.runText(doing, statement, values, statementDeadline, readSharedAnswer);
      const broken = distrust(answer.said, { pid, name }, doing);
      if (broken !== undefined) {
        session.destroy(broken);
        throw broken;
      }
      lease.proven(wanted, answer.sentAt);
      return answer;
    } catch (error) {
      lease.failed();
      throw error;
    }
  }

  /**
   * After a statement that failed half-way: its settings are those of before, but the locks that it had taken stay, and
   * those that it had freed are free. What it took is given back; what it was to free is freed. What it was to prove is proved by
   * that.
   */
  async #recover(opened: Opened, batch: readonly Task[], error: Error): Promise<void> {
    const { session } = opened;
    try {
      const looking = "Looking after a failed statement";
      const looked = await session.run<string[]>(looking, ownLocks, [], statementDeadline);
      const own = new Set(looked.said.map(BigInt));
      const refused = ({ operation }: Task): boolean => isTaking(operation);
      const left = batch.filter((task) => (isProof(task.operation) ? !refused(task) : own.has(task.id)));
      const { sentAt } = left.length === 0 ? looked : await this.#run(opened, left.map(asFreeing));
      for (const task of batch) {
        if (refused(task)) task.reject(named(error, task));
        else task.resolve({ answer: isProof(task.operation) ? "t" : "1", sentAt });
      }
    } catch (second) {
      session.destroy(second as Error);
      for (const task of batch) task.reject(named(error, task));
    }
  }
}

const doing = "Asking a session";

/** The error as that of the one who asked: what was done, and the key. */
function named(error: unknown, { operation, key }: Task): unknown {
  if (!(error instanceof DatabaseError) || key === undefined) return namedLockError(error);
  const asked = isTaking(operation) ? "Taking" : isProof(operation) ? "Refreshing" : "Giving back";
  return namedLockError(new DatabaseError({ doing: `${asked} the lock`, key, cause: error.cause }));
}

/** Its session went before its turn came. */
function notSent(task: Task, cause: Error): void {
  if (isTaking(task.operation)) task.resolve("not sent");
  else task.reject(named(new DatabaseError({ doing, cause }), task));
}

function isProof(operation: Operation): boolean {
  return operation === proving || operation === joining;
}

function isTaking(operation: Operation): boolean {
  return operation === taking.exclusive || operation === taking.shared;
}

function asFreeing(task: Task): Task {
  if (isProof(task.operation)) return task;
  const exclusive = task.operation === taking.exclusive || task.operation === freeing.exclusive;
  return {
    ...task,
    operation: exclusive ? freeing.exclusive : freeing.shared,
    request: undefined,
  };
}
