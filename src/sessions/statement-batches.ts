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
  readonly token: string | null;
}

interface Task {
  readonly operation: Operation;
  readonly id: bigint;
  /** Whose it is: given up where that is abandoned by the time it could be sent. Absent where nobody can. */
  readonly request: LockRequest | undefined;
  resolve(done: Done | NoSession | "not wanted"): void;
  reject(error: unknown): void;
}

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
  #opened: Opened | undefined;
  #isBusy = false;
  /** Settles when the last statement has been answered; never rejects. */
  #underWay: Promise<void> = Promise.resolve();

  constructor(parts: OperationsParts) {
    this.#parts = parts;
  }

  /**
   * @param request on whose behalf; also whether a fencing token is wanted
   * @returns `"not wanted"` where the request was abandoned before its turn came, or why there is no session
   * @throws {DatabaseError} the session has gone, or the operation failed: then it has not taken effect
   * @throws {LockTableFullError} @throws {StandbyError} @throws {PoolerDetectedError}
   */
  ask(operation: Operation, id: bigint, request?: LockRequest): Promise<Done | NoSession | "not wanted"> {
    return new Promise((resolve, reject) => {
      const gone = this.#opened?.session.goneBecause;
      if (gone !== undefined) {
        reject(new DatabaseError({ doing, cause: gone }));
        return;
      }
      this.#tasks.push({ operation, id, request, resolve, reject });
      this.#flush();
    });
  }

  /** The session is open. */
  begin(opened: Opened): void {
    this.#opened = opened;
    this.#flush();
  }

  /** There is no session: what was asked is told why. */
  refuse(why: NoSession): void {
    for (const task of this.#tasks.splice(0)) task.resolve(why);
  }

  /** There is none any more, or none could be opened. */
  fail(error: unknown): void {
    for (const task of this.#tasks.splice(0)) task.reject(error);
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
    this.#tasks = this.#tasks.filter(({ request, resolve }) => {
      if (request?.abandoned) resolve("not wanted");
      return !request?.abandoned;
    });
    const callers = answered + this.#tasks.length;
    const most = callers > halvedAbove ? Math.min(Math.ceil(callers / 2), longestBatch) : longestBatch;
    const batch = this.#tasks.splice(0, most);
    // From here on a caller can't leave without something to be undone.
    for (const { request } of batch) if (request !== undefined) request.sent = true;
    return batch;
  }

  /** Never rejects. */
  async #send(opened: Opened, batch: readonly Task[]): Promise<void> {
    let answer: { said: SharedAnswer; sentAt: Instant };
    try {
      answer = await this.#run(opened, batch);
    } catch (error) {
      if (opened.session.goneBecause === undefined) await this.#recover(opened, batch, error as Error);
      else for (const task of batch) task.reject(error);
      this.#isBusy = false;
      this.#flush();
      return;
    }
    // First the next ones: the server is at work on them while these callers are at work on their answers.
    this.#isBusy = false;
    this.#flush(batch.length);
    const { said, sentAt } = answer;
    batch.forEach((task, at) => {
      task.resolve({ answer: said.answers?.[at] as OperationAnswer, sentAt, token: said.token });
    });
  }

  async #run(
    { session, pid }: Opened,
    batch: readonly Task[],
  ): Promise<{ said: SharedAnswer; sentAt: Instant }> {
    const { lease, name } = this.#parts;
    const operations = batch.map(({ operation }) => operation);
    const statement = sharedStatement(
      operations,
      batch.some(({ request }) => request?.fencing === true),
    );
    const wanted = this.#parts.leaseWanted();
    const values: Value[] = [Number.isFinite(wanted) ? sessionTimeout(wanted) : "0"];
    const ids = batch.map(({ id }) => id.toString());
    if (batch.length > 1) values.push(ids, operations);
    else if (operations[0] !== proving) values.push(...ids);
    lease.asked(wanted);
    try {
      const answer = await session.run<SharedAnswer>(doing, statement, values, statementDeadline);
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
   * that; but no token is drawn, either.
   */
  async #recover(opened: Opened, batch: readonly Task[], error: Error): Promise<void> {
    const { session } = opened;
    try {
      const looking = "Looking after a failed statement";
      const looked = await session.run<string[]>(looking, ownLocks, [], statementDeadline);
      const own = new Set(looked.said.map(BigInt));
      const refused = ({ operation, request }: Task): boolean =>
        isTaking(operation) || request?.fencing === true;
      const left = batch.filter((task) => (isProof(task.operation) ? !refused(task) : own.has(task.id)));
      const { sentAt } = left.length === 0 ? looked : await this.#run(opened, left.map(asFreeing));
      for (const task of batch) {
        if (refused(task)) task.reject(namedLockError(error));
        else task.resolve({ answer: isProof(task.operation) ? "t" : "1", sentAt, token: null });
      }
    } catch (second) {
      session.destroy(second as Error);
      for (const task of batch) task.reject(namedLockError(error));
    }
  }
}

const doing = "Asking a session";

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
