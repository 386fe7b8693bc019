import { codeOf, toError } from "../contract/caught-error.ts";
import type { TransactionClient } from "../contract/clients.ts";
import { DatabaseError, LockExpiredError, LockerClosedError, LockLostError } from "../contract/errors.ts";
import { cancelStatement } from "../postgres/cancel.ts";
import { type Session, statementDeadline } from "../postgres/session.ts";
import {
  commitUnderLock,
  hasFailed,
  idleTooLong,
  keepAlive,
  lockHasGone,
  type Mark,
  rollback,
} from "../postgres/sql-transaction.ts";
import type { Instant } from "../runtime/clock.ts";
import { Stop } from "../runtime/stop-signal.ts";
import { TransactionHeartbeat } from "./transaction-heartbeat.ts";
import { aboutLock, countTtl, type TransactionLock } from "./transaction-lock.ts";

/** A try that was granted. */
export interface TransactionGrant {
  readonly mark: Mark;
  /** When a statement was sent that showed the lock to be held. */
  readonly provenAt: Instant;
}

const committing = "Committing under the lock";
const rollingBack = "Rolling back under the lock";

/** A transaction of the locker's own that has its lock, until its end. */
export class OwnTransaction implements TransactionLock {
  readonly client: TransactionClient;
  readonly lost = new Stop();
  readonly #session: Session;
  readonly #facts: TransactionGrant & { key: string; ended: () => void };
  readonly #heartbeat: TransactionHeartbeat | undefined;
  readonly #giveBackClient: () => void;
  readonly #uncount: (() => void) | undefined;
  #ending: Promise<unknown> | undefined;
  #canceled: Promise<void> | undefined;

  constructor(
    session: Session,
    facts: TransactionGrant & { key: string; ttl: number | undefined; ended: () => void },
  ) {
    this.client = session.client as unknown as TransactionClient;
    this.#session = session;
    this.#facts = facts;
    this.#giveBackClient = keepFromPool(session.client);
    const { key, ttl, provenAt } = facts;
    session.onGone((cause) => {
      this.#heartbeat?.stop();
      // Before our own clock, if that stood still.
      if (codeOf(cause) === idleTooLong) this.lost.abort(new LockLostError({ key, cause }));
    });
    if (ttl === undefined) return;
    this.#uncount = countTtl(session.client, ttl);
    this.#heartbeat = new TransactionHeartbeat({
      ttl,
      provenAt,
      // Whether it is answered in time is for the heartbeat to say.
      beat: () => session.command("Keeping a transaction alive", keepAlive, ttl + statementDeadline),
      expired: () => {
        const expired = new LockExpiredError({ key, ttl });
        this.#cutOff(expired);
        this.lost.abort(expired);
      },
    });
  }

  get isOpen(): boolean {
    return this.#session.goneBecause === undefined;
  }

  async keep(): Promise<void> {}

  async commit(): Promise<void> {
    const { key } = this.#facts;
    await this.#end(async (session) => {
      try {
        await session.commandScript(committing, commitUnderLock(this.#facts.mark), statementDeadline);
        return;
      } catch (error) {
        const { sqlState } = error as DatabaseError;
        const instead = insteadOfCommit(sqlState);
        if (instead === undefined) throw error;
        // What the function began since is not committed either.
        await session.command(rollingBack, rollback, statementDeadline);
        throw new DatabaseError({ doing: committing, key, cause: instead });
      }
    });
  }

  async release(): Promise<void> {
    if (this.lost.aborted) return;
    await this.#end((session) => session.command(rollingBack, rollback, statementDeadline));
  }

  /** Never rejects. */
  async close(): Promise<void> {
    // Cut off in mid-commit, nobody would know whether it took effect.
    if (this.#ending === undefined) this.#cutOff(new LockerClosedError());
    else await this.#ending.catch(() => {});
    await this.#canceled;
  }

  /** The server notices that its client has gone when the statement of the moment has ended. */
  #cutOff(cause: Error): void {
    this.#heartbeat?.stop();
    if (this.isOpen) this.#canceled = cancelStatement(this.#session.client);
    this.#session.destroy(cause);
    this.#facts.ended();
  }

  #end(how: (session: Session) => Promise<unknown>): Promise<void> {
    const ending = this.#sendEnd(how);
    this.#ending = ending;
    return ending;
  }

  async #sendEnd(how: (session: Session) => Promise<unknown>): Promise<void> {
    const session = this.#session;
    this.#heartbeat?.look();
    this.#heartbeat?.stop();
    this.#uncount?.();
    this.#giveBackClient();
    try {
      await how(session);
    } catch (error) {
      if (session.goneBecause === undefined && !isRolledBack(error, session)) session.destroy(toError(error));
      throw this.#namedEnd(error);
    } finally {
      // Does nothing for one that has gone.
      session.return();
      this.#facts.ended();
    }
  }

  #namedEnd(error: unknown): unknown {
    const gone = this.#session.goneBecause;
    if (this.lost.aborted) return this.lost.reason;
    if (error instanceof DatabaseError && error.sqlState === idleTooLong) {
      return new LockLostError({ key: this.#facts.key, cause: error.cause });
    }
    return gone instanceof LockerClosedError ? gone : aboutLock(error, this.#facts.key);
  }
}

/** Why nothing was committed, by the code of the server's answer; `undefined`: for no reason that we know of. */
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

/** Whether the session is out of the transaction, and of every other, as far as the driver tells. */
function isRolledBack(error: unknown, session: Session): boolean {
  return error instanceof DatabaseError && session.client.getTransactionStatus?.() === "I";
}

/**
 * Keeps a function from giving the client of the transaction back to the pool, which would hand it out to the next: the
 * client's `release` throws. @returns what undoes that
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
  return () => Reflect.set(client, "release", release);
}
