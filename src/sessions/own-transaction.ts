import { codeOf, toError } from "../contract/caught-error.ts";
import type { TransactionClient } from "../contract/clients.ts";
import { DatabaseError, LockerClosedError, LockLostError } from "../contract/errors.ts";
import { cancelStatement } from "../postgres/cancel.ts";
import { type Statement, statement } from "../postgres/driver.ts";
import { type Answer, type Session, statementDeadline } from "../postgres/session.ts";
import {
  begin,
  commitUnderLock,
  hasFailed,
  idleTooLong,
  keepAlive,
  lockHasGone,
  type Mark,
  newMark,
  probeTransaction,
  rollback,
} from "../postgres/sql-transaction.ts";
import { type Transaction, type TransactionGrant, takingTheLock } from "./transaction-lock.ts";

const committing = "Committing under the lock";
const rollingBack = "Rolling back under the lock";

//   reserved ── begin ──▶ begun ── keep ──▶ kept ── commit, undo ──▶ ending ── an answer, or none ──▶ returned or destroyed
//      └── undo ──▶ ending  └── undo ──▶ ending
//   fail, cutOff, from any of them ──▶ cut off
type State =
  | { readonly is: "reserved" }
  | { readonly is: "begun" }
  /** `giveBackClient` undoes {@link keepFromPool}. */
  | { readonly is: "kept"; readonly mark: Mark; readonly giveBackClient: () => void }
  /** `ended` settles when the session has been returned or destroyed. */
  | { readonly is: "ending"; readonly ended: Promise<void> }
  | { readonly is: "cut off" };

/** One of the locker's own transactions, on a session of the pool. */
export class OwnTransaction implements Transaction {
  readonly isOwn = true;
  readonly client: TransactionClient;
  readonly #session: Session;
  readonly #key: string;
  readonly #ended: () => void;
  #state: State = { is: "reserved" };
  /** Settles when the server has been told to cancel what was under way. */
  #canceled: Promise<void> | undefined;

  /** `ended` is called when the transaction is over. */
  constructor(session: Session, { key, ended }: { key: string; ended: () => void }) {
    this.client = session.client as unknown as TransactionClient;
    this.#session = session;
    this.#key = key;
    this.#ended = ended;
  }

  get isOpen(): boolean {
    return this.#session.goneBecause === undefined;
  }

  async begin(): Promise<void> {
    const session = this.#session;
    const doing = takingTheLock;
    session.assertOutsideTransaction(doing);
    const tells = session.client.getTransactionStatus !== undefined;
    if (!tells) await session.run(doing, probeTransaction, [newMark()], statementDeadline);
    await session.command(doing, begin, statementDeadline);
    if (this.#state.is === "reserved") this.#state = { is: "begun" };
  }

  ask<T>(question: Statement, values: Array<string | null>): Promise<Answer<T>> {
    return this.#session.run<T>(takingTheLock, question, values, statementDeadline);
  }

  tell(text: string, { doing, deadline }: { doing: string; deadline: number }): Promise<unknown> {
    return this.#session.command(doing, statement(text), deadline);
  }

  cancel(): Promise<void> {
    return cancelStatement(this.#session.client);
  }

  // The heartbeat decides whether the answer came in time.
  readonly beat = (ttl: number): Promise<unknown> =>
    this.#session.command("Keeping a transaction alive", keepAlive, ttl + statementDeadline);

  onGone(listener: (idle: Error | undefined) => void): void {
    this.#session.onGone((cause) => listener(codeOf(cause) === idleTooLong ? cause : undefined));
  }

  async keep({ mark }: TransactionGrant): Promise<void> {
    if (this.#state.is !== "begun") return;
    this.#state = { is: "kept", mark, giveBackClient: keepFromPool(this.#session.client) };
  }

  commit(): Promise<void> {
    const state = this.#state;
    return this.#end(async (session) => {
      if (state.is !== "kept") throw session.goneBecause;
      try {
        await session.commandScript(committing, commitUnderLock(state.mark), statementDeadline);
        return;
      } catch (error) {
        const { sqlState } = error as DatabaseError;
        const instead = insteadOfCommit(sqlState);
        if (instead === undefined) throw error;
        // Undoes what the function has begun since.
        await session.command(rollingBack, rollback, statementDeadline);
        throw new DatabaseError({ doing: committing, key: this.#key, cause: instead });
      }
    });
  }

  undo(): Promise<void> {
    const { is } = this.#state;
    const doing = is === "begun" ? takingTheLock : rollingBack;
    return this.#end(async (session) => {
      if (is !== "reserved") await session.command(doing, rollback, statementDeadline);
    });
  }

  async fail(error: unknown): Promise<void> {
    this.#session.destroy(toError(error));
    this.#over();
  }

  /** Cancels the statement under way, because the server notices that its client has gone only when that has ended. */
  cutOff(cause: Error): void {
    if (this.isOpen) this.#canceled = cancelStatement(this.#session.client);
    this.#session.destroy(cause);
    this.#over();
  }

  /** Ends the transaction, or waits for the end that is under way. Never rejects, and takes seconds at most. */
  async close(): Promise<void> {
    // If it were cut off in the middle of a commit, nobody would know whether that took effect.
    if (this.#state.is === "ending") await this.#state.ended.catch(() => {});
    else this.cutOff(new LockerClosedError());
    await this.#canceled;
  }

  #end(how: (session: Session) => Promise<void>): Promise<void> {
    if (this.#state.is === "kept") this.#state.giveBackClient();
    const ended = this.#sendEnd(how);
    this.#state = { is: "ending", ended };
    return ended;
  }

  async #sendEnd(how: (session: Session) => Promise<void>): Promise<void> {
    const session = this.#session;
    try {
      await how(session);
    } catch (error) {
      if (session.goneBecause === undefined && !isRolledBack(error, session)) session.destroy(toError(error));
      throw this.#namedEnd(error);
    } finally {
      // Does nothing for a session that has gone.
      session.return();
      this.#ended();
    }
  }

  #over(): void {
    if (this.#state.is === "kept") this.#state.giveBackClient();
    if (this.#state.is !== "ending") this.#state = { is: "cut off" };
    this.#ended();
  }

  #namedEnd(error: unknown): unknown {
    const gone = this.#session.goneBecause;
    if (error instanceof DatabaseError && error.sqlState === idleTooLong) {
      return new LockLostError({ key: this.#key, cause: error.cause });
    }
    return gone instanceof LockerClosedError ? gone : error;
  }
}

/** Why nothing was committed, by the code of the server's answer; `undefined` for any other code. */
function insteadOfCommit(sqlState: string | undefined): Error | undefined {
  switch (sqlState) {
    case lockHasGone:
      return new Error("the function had ended the transaction itself, and so the lock");
    case hasFailed:
      return new Error("a statement of the transaction had failed, and so it was rolled back");
    default:
      return undefined;
  }
}

/** Whether the driver says that the session is in no transaction. */
function isRolledBack(error: unknown, session: Session): boolean {
  return error instanceof DatabaseError && session.client.getTransactionStatus?.() === "I";
}

/**
 * Makes the client's `release` throw, because a function that gave its client back would have the pool hand it to somebody else.
 *
 * @returns a function that undoes it
 */
function keepFromPool(client: object): () => void {
  const { release } = client as { release?: unknown };
  if (typeof release !== "function") return () => {};
  const refuse = (): never => {
    throw new Error(
      "The client of a transaction is the locker's, which gives it back at the end: don't release it",
    );
  };
  Reflect.set(client, "release", refuse);
  // Once: by the second time the pool may have handed the client out again, with a release of that time.
  return () => {
    if ((client as { release?: unknown }).release === refuse) Reflect.set(client, "release", release);
  };
}
