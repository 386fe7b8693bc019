import type { Instant } from "./clock.ts";
import { DatabaseError, namedLockError, PoolerDetectedError, StandbyError } from "./errors.ts";
import type { Value } from "./exchange.ts";
import { sessionTimeout } from "./lease.ts";
import type { NoSession } from "./reservation.ts";
import { type Session, statementDeadline } from "./session.ts";
import type { SessionLease } from "./session-lease.ts";
import {
  freeing,
  freeingUntold,
  type Operation,
  type OperationAnswer,
  ownLocks,
  proving,
  type SharedAnswer,
  sharedStatement,
  taking,
} from "./sql-shared.ts";

/** What became of an operation. */
export interface Done {
  readonly answer: OperationAnswer;
  readonly sentAt: Instant;
  readonly token: string | null;
}

interface Task {
  readonly operation: Operation;
  readonly id: bigint;
  readonly fenced: boolean;
  /** Asked right before it is sent; one that is not is given up. */
  isWanted(): boolean;
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

/**
 * What is asked of one session, before it is open and then. What comes while a statement is under way goes out together in the
 * next one, in the order in which it came; nothing ever waits in the server, so that no lock holds up another.
 */
export class Operations {
  readonly #parts: OperationsParts;
  #tasks: Task[] = [];
  #opened: Opened | undefined;
  #isBusy = false;
  /** Settles when the statement has been answered; never rejects. */
  #underWay: Promise<void> = Promise.resolve();

  constructor(parts: OperationsParts) {
    this.#parts = parts;
  }

  /**
   * @returns `"not wanted"` where `isWanted` said so when its turn came, or why there is no session
   * @throws {DatabaseError} the session has gone, or the operation failed: then it has not taken effect
   * @throws {LockTableFullError} @throws {StandbyError} @throws {PoolerDetectedError}
   */
  ask(
    operation: Operation,
    id: bigint,
    { fenced = false, isWanted = () => true }: { fenced?: boolean; isWanted?: () => boolean } = {},
  ): Promise<Done | NoSession | "not wanted"> {
    return new Promise((resolve, reject) => {
      const gone = this.#opened?.session.goneBecause;
      if (gone !== undefined) {
        reject(new DatabaseError({ doing, cause: gone }));
        return;
      }
      this.#tasks.push({ operation, id, fenced, isWanted, resolve, reject });
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

  #flush(): void {
    const opened = this.#opened;
    if (this.#isBusy || opened === undefined) return;
    const batch: Task[] = [];
    while (batch.length < longestBatch) {
      const task = this.#tasks.shift();
      if (task === undefined) break;
      if (task.isWanted()) batch.push(task);
      else task.resolve("not wanted");
    }
    if (batch.length === 0) return;
    this.#isBusy = true;
    this.#underWay = this.#send(opened, batch).finally(() => {
      this.#isBusy = false;
      this.#flush();
      if (!this.#isBusy) this.#parts.onIdle();
    });
  }

  /** Never rejects. */
  async #send(opened: Opened, batch: readonly Task[]): Promise<void> {
    try {
      const { said, sentAt } = await this.#run(opened, batch);
      batch.forEach((task, at) => {
        task.resolve({ answer: said.answers?.[at] ?? null, sentAt, token: said.token });
      });
    } catch (error) {
      if (opened.session.goneBecause === undefined) await this.#recover(opened, batch, error as Error);
      else for (const task of batch) task.reject(error);
    }
  }

  async #run(
    { session, pid }: Opened,
    batch: readonly Task[],
  ): Promise<{ said: SharedAnswer; sentAt: Instant }> {
    const { lease, name } = this.#parts;
    const operations = batch.map(({ operation }) => operation);
    const statement = sharedStatement(
      operations,
      batch.some(({ fenced }) => fenced),
    );
    const wanted = this.#parts.leaseWanted();
    const values: Value[] = [Number.isFinite(wanted) ? sessionTimeout(wanted) : "0"];
    const ids = batch.map(({ id }) => id.toString());
    if (batch.length > 1) values.push(ids, operations.join(""));
    else if (operations[0] !== proving) values.push(...ids);
    lease.asked(wanted);
    try {
      const answer = await session.run<SharedAnswer>(doing, statement, values, statementDeadline);
      const broken = distrust(answer.said, { pid, name });
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
   * those that it had freed are free. What it took is given back; what it was to free is freed. Nobody is told of that, for
   * which there may be no room; those who wait poll. What it was to prove is proved by that; but no token is drawn, either.
   */
  async #recover(opened: Opened, batch: readonly Task[], error: Error): Promise<void> {
    const { session } = opened;
    try {
      const looking = "Looking after a failed statement";
      const looked = await session.run<string[]>(looking, ownLocks, [], statementDeadline);
      const own = new Set(looked.said.map(BigInt));
      const refused = ({ operation, fenced }: Task): boolean => isTaking(operation) || fenced;
      const left = batch.filter((task) => (task.operation === proving ? !refused(task) : own.has(task.id)));
      const { sentAt } = left.length === 0 ? looked : await this.#run(opened, left.map(asFreeing));
      for (const task of batch) {
        if (refused(task)) task.reject(namedLockError(error));
        else task.resolve({ answer: task.operation === proving ? true : 1, sentAt, token: null });
      }
    } catch (second) {
      session.destroy(second as Error);
      for (const task of batch) task.reject(namedLockError(error));
    }
  }
}

const doing = "Asking a session";

/** Why a session that answers so is not the one that it was, if it isn't. */
function distrust(said: SharedAnswer, was: { pid: number; name: string }): Error | undefined {
  if (said.standby) return new StandbyError();
  if (said.pid !== was.pid) return new PoolerDetectedError({ announced: was.pid, actual: said.pid });
  if (said.name === was.name) return undefined;
  return new DatabaseError({ doing, cause: new Error("the session's state was discarded") });
}

function isTaking(operation: Operation): boolean {
  return operation === taking.exclusive || operation === taking.shared;
}

function asFreeing(task: Task): Task {
  if (task.operation === proving) return task;
  const exclusive = task.operation === taking.exclusive || task.operation === freeing.exclusive;
  return { ...task, operation: exclusive ? freeingUntold.exclusive : freeingUntold.shared, fenced: false };
}
