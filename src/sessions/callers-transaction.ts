import type { TransactionClient } from "../contract/clients.ts";
import { DatabaseError, databaseFailure, InvalidConfigError } from "../contract/errors.ts";
import { show } from "../contract/shown-value.ts";
import { cancelStatement, isCancellable, isUnderWay } from "../postgres/cancel.ts";
import type { Client, Statement } from "../postgres/driver.ts";
import { type Answer, statementDeadline } from "../postgres/session.ts";
import {
  hasFailed,
  keepAlive,
  type LookAnswer,
  lookAtEnd,
  noTransaction,
  releaseSavepoint,
  rollbackToSavepoint,
  savepoint,
} from "../postgres/sql-transaction.ts";
import { now, within } from "../runtime/clock.ts";
import { answerOf, Turns } from "./client-turns.ts";
import type { LockRequest, Refusal } from "./grant.ts";
import {
  type AskedOfTransaction,
  type Transaction,
  type TransactionGrant,
  type TransactionLock,
  takeInTransaction,
  takingTheLock,
} from "./transaction-lock.ts";

export interface AskedOfCaller extends AskedOfTransaction {
  /** Whether the call comes from a function that runs under a lock of the same transaction. */
  readonly isWithin?: boolean;
  /**
   * Cancels the wait of the backend `pid` if the client isn't node-postgres's own. Without this function, such a wait goes on until its
   * bound.
   */
  readonly cancelWait?: ((pid: number, id: bigint) => Promise<void>) | undefined;
}

/** One turn for each lock, until the lock is kept or given up: its savepoint has to be the client's latest until then. */
const savepoints = new Turns();
/** One turn for each function, until it has ended; functions that run within another have none. */
const functions = new Turns();

/**
 * Takes the lock in a transaction that the caller has open. With a `wait`, it waits in the server, for at most one bound. An aborted wait
 * ends with the refusal `"abandoned"`: at once if the client is node-postgres's own, or if `cancelWait` is given. Whatever goes wrong, the
 * transaction is as it was before, unless the client itself fails.
 *
 * Calls on one client take turns, because two at once would come between each other's savepoints. A second call also waits for the end of
 * the first call's function, unless that function made it: going back to its savepoint would undo what the function wrote meanwhile.
 *
 * @throws {InvalidConfigError} the client is not in a transaction, or doesn't answer as a client does
 * @throws {StandbyError} @throws {LockTableFullError}
 * @throws {DatabaseError} also 40P01, if this and other transactions wait for each other
 */
export function takeInCallers(
  client: TransactionClient,
  request: LockRequest,
  { isWithin = false, cancelWait, ...asked }: AskedOfCaller = {},
): Promise<TransactionLock | Refusal> {
  const transaction = new CallersTransaction(client, { key: request.wanted.key, cancelWait });
  const take = (): Promise<TransactionLock | Refusal> =>
    savepoints.take(
      client,
      () => takeInTransaction(transaction, request, asked),
      () => transaction.settled,
    );
  return isWithin ? take() : functions.take(client, take, () => transaction.ended);
}

/** Resolves when the latest call on a caller's client is over, including what undoes it. */
export function untilSettled(client: object, isWithin: boolean): Promise<void> {
  return (isWithin ? savepoints : functions).areOver(client);
}

//   new ──begin()──▶ begun ──keep()──▶ kept ──commit(), undo(): a look──▶ over
//    │                 ├──undo(), fail(): back to the savepoint──▶ over
//    │                 └──no answer in time──▶ silent ──fail()──▶ over
//    └──undo(), fail()──▶ over
type State =
  | { readonly is: "new" | "begun" }
  /** The client may still be busy with a statement, and the next one would wait behind it, so nothing is sent any more. */
  | { readonly is: "silent" }
  | { readonly is: "kept"; readonly granted: TransactionGrant }
  | { readonly is: "over" };

/**
 * A caller's transaction. Its client needs only `query(text, values)` that returns rows as objects, so that a transaction of any
 * library can be adapted. The lock is taken between a savepoint and its release.
 */
class CallersTransaction implements Transaction {
  readonly isOwn = false;
  readonly isOpen = false;
  readonly client: TransactionClient;
  /** Resolves when the lock is kept or given up. */
  readonly settled: Promise<void>;
  /** Resolves when the caller's function has ended, or will not begin. */
  readonly ended: Promise<void>;
  readonly beat: Transaction["beat"];
  readonly #key: string;
  readonly #cancelWait: AskedOfCaller["cancelWait"];
  #settle: () => void = () => {};
  #end: () => void = () => {};
  #state: State = { is: "new" };

  constructor(client: TransactionClient, about: { key: string; cancelWait: AskedOfCaller["cancelWait"] }) {
    this.client = client;
    this.#key = about.key;
    this.#cancelWait = about.cancelWait;
    this.settled = new Promise((resolve) => {
      this.#settle = resolve;
    });
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    // Not every library's client can run something beside the function's own statements.
    this.beat = isCancellable(client) ? () => client.query(keepAlive.text, []) : undefined;
  }

  /** Sets the savepoint. @throws {InvalidConfigError} there is no transaction */
  async begin(): Promise<void> {
    try {
      await this.tell(savepoint);
    } catch (error) {
      if (!(error instanceof DatabaseError) || error.sqlState !== noTransaction) throw error;
      const wants = `a client with a transaction begun, but ${show(this.client)} is in none`;
      throw new InvalidConfigError({ field: "client", wants });
    }
    this.#state = { is: "begun" };
  }

  ask<T>(question: Statement, values: Array<string | null>): Promise<Answer<T>> {
    return this.#ask(question, values, takingTheLock);
  }

  async #ask<T>({ text }: Statement, values: Array<string | null>, doing: string): Promise<Answer<T>> {
    const sentAt = now();
    const result = await this.#query(text, values, { doing, deadline: statementDeadline });
    return { said: answerOf<T>(this.client, result), sentAt };
  }

  async tell(text: string, about = { doing: takingTheLock, deadline: statementDeadline }): Promise<void> {
    await this.#query(text, [], about);
  }

  /** Cancels the wait. Does nothing if the client runs another statement. */
  async cancel(text: string, { pid, id }: { pid: number; id: bigint }): Promise<void> {
    if (!isCancellable(this.client)) await this.#cancelWait?.(pid, id);
    else if (isUnderWay(this.client, text)) await cancelStatement(this.client as unknown as Client);
  }

  /** Takes the lock back. Never rejects, because the caller is told of the failure that came before. */
  async undo(): Promise<void> {
    const state = this.#state;
    this.#state = { is: "over" };
    try {
      if (state.is === "kept") {
        await this.#lookAtEnd(state.granted);
      } else if (state.is === "begun") {
        await this.tell(rollbackToSavepoint);
        await this.tell(releaseSavepoint);
      }
    } catch {
      // The client or the transaction has ended, as the caller's next statement will say.
    }
    this.#settle();
    this.#end();
  }

  fail(): Promise<void> {
    return this.undo();
  }

  async keep(granted: TransactionGrant): Promise<void> {
    this.#state = { is: "kept", granted };
    try {
      await this.tell(releaseSavepoint);
    } finally {
      this.#settle();
    }
  }

  /** Ends the lock at the end of the function. @throws {DatabaseError} the lock was no longer held, or nobody knows whether it was */
  async commit(): Promise<void> {
    const state = this.#state;
    this.#state = { is: "over" };
    try {
      if (state.is === "kept") await this.#lookAtEnd(state.granted);
    } finally {
      this.#end();
    }
  }

  // The session is the caller's, whose client tells what becomes of it.
  cutOff(): void {}
  onGone(): void {}

  #lookAtEnd({ mark }: TransactionGrant): Promise<void> {
    const doing = "Keeping the lock";
    const key = this.#key;
    const look = async (): Promise<void> => {
      let held: boolean;
      try {
        ({ held } = (await this.#ask<LookAnswer>(lookAtEnd, [mark], doing)).said);
      } catch (error) {
        const failed = error instanceof DatabaseError && error.sqlState === hasFailed;
        if (!failed) throw error;
        const cause = new Error("a statement of the transaction had failed, which ended the lock");
        throw new DatabaseError({ doing, key, cause });
      }
      if (held) return;
      const cause = new Error(
        "the function had ended the transaction itself, or gone back to before the lock, and so ended the lock",
      );
      throw new DatabaseError({ doing, key, cause });
    };
    return savepoints.take(this.client, look);
  }

  async #query(text: string, values: unknown[], { doing, deadline }: { doing: string; deadline: number }) {
    const asking = (async () => this.client.query(text, values))();
    let isAnswered = false;
    const answered = (): void => {
      isAnswered = true;
    };
    asking.then(answered, answered);
    try {
      return await within(deadline, asking);
    } catch (cause) {
      if (!isAnswered && this.#state.is === "begun") this.#state = { is: "silent" };
      // An adapter throws an InvalidConfigError for a transaction that has ended.
      throw databaseFailure(doing, cause, this.#key);
    }
  }
}
