import type { TransactionClient } from "../contract/clients.ts";
import {
  DatabaseError,
  LockExpiredError,
  LockLostError,
  namedLockError,
  StandbyError,
} from "../contract/errors.ts";
import type { Statement } from "../postgres/driver.ts";
import { type Answer, clientInTransaction, statementDeadline } from "../postgres/session.ts";
import { waitEnded } from "../postgres/sql.ts";
import {
  deadlockDetected,
  type LookAnswer,
  lookAfterWait,
  type Mark,
  newMark,
  type TryAnswer,
  tryTransactionLock,
  waitForLock,
  waitForLockPlainly,
} from "../postgres/sql-transaction.ts";
import type { Instant } from "../runtime/clock.ts";
import { Stop, type StopSignal } from "../runtime/stop-signal.ts";
import type { LockRequest, Refusal } from "./grant.ts";
import type { AskTransaction, RecoveryGrace } from "./recovery-grace.ts";
import { sessionTimeout } from "./server-ttl.ts";
import { TransactionHeartbeat } from "./transaction-heartbeat.ts";
import { lockTimeout, untilAnswered } from "./until-answered.ts";

/**
 * A transaction that a lock is taken in: the locker's own, or one that the caller has open. The course below is the same for both; this
 * interface is what differs.
 *
 *     begin ── try ─┬─ granted ─────────────────────────────┬─▶ keep ── the function ──▶ commit, undo
 *                   └─ refused ── wait, at most once, look ─┤
 *                                                           └─ refused ──▶ undo
 *     a fault before keep ──▶ fail
 */
export interface Transaction {
  readonly client: TransactionClient;
  /** Whether the locker begins and ends the transaction. */
  readonly isOwn: boolean;
  /** Whether the transaction is open, as far as the locker knows. Always false for a caller's: the locker isn't told of its end. */
  readonly isOpen: boolean;
  /** Begins the part that {@link undo} takes back. */
  begin(): Promise<void>;
  ask<T>(question: Statement, values: Array<string | null>): Promise<Answer<T>>;
  /** Sends a statement that returns nothing. `deadline`: milliseconds that it may take. */
  tell(text: string, about: { doing: string; deadline: number }): Promise<unknown>;
  /** Cancels the statement with this text, which waits in the backend `pid` for the lock `id`. Never rejects. */
  cancel(text: string, waiter: { pid: number; id: bigint }): Promise<void>;
  /**
   * Takes the lock back. Rolls the transaction back as well if it is the locker's own. A caller's transaction is rolled back to before
   * the lock, or left as it is after {@link keep}.
   *
   * @throws what a rollback of the locker's own transaction fails with
   */
  undo(): Promise<void>;
  /** Takes the lock back after a fault. Never rejects. */
  fail(error: unknown): Promise<void>;
  /** Tells it that the caller's function runs in it from now on. */
  keep(granted: TransactionGrant): Promise<void>;
  /** Commits the locker's own transaction, or ends the lock in a caller's. @throws if the lock was not held until now */
  commit(): Promise<void>;
  /** Sends something, so that the server doesn't end the transaction as idle. Absent if nothing can be sent beside the function's statements. */
  readonly beat: ((ttl: number) => Promise<unknown>) | undefined;
  /** Ends the locker's own transaction at once, even in the middle of a statement. */
  cutOff(cause: Error): void;
  /** Calls `listener` once if the session of the locker's own transaction is lost; with an error if the server ended it as idle. */
  onGone(listener: (idle: Error | undefined) => void): void;
}

/** What is known of a lock that was granted in a transaction. */
export interface TransactionGrant {
  readonly mark: Mark;
  /** When the statement was sent whose answer showed that the lock is held. */
  readonly provenAt: Instant;
}

/** How long to wait in the server. */
export interface TransactionWait {
  /** Milliseconds. */
  readonly bound: number;
  /** Cancels the wait in the server when it aborts. */
  readonly signal: StopSignal;
}

export interface AskedOfTransaction {
  /** Milliseconds that the transaction may be idle before the server ends it. `undefined`: no limit. */
  readonly ttl?: number | undefined;
  /** Waits once in the server if somebody else holds the lock. */
  readonly wait?: TransactionWait | undefined;
  readonly recovery?: RecoveryGrace | undefined;
}

export const takingTheLock = "Taking the lock";
const waitingForTheLock = "Waiting for the lock";

/**
 * Takes the lock in a transaction, after a wait in the server if `asked.wait` is set. Returns a refusal if somebody else holds the lock, or
 * `"abandoned"` if the caller has left meanwhile. After a refusal or a fault nothing is left of the lock.
 *
 * @throws {StandbyError} @throws {LockTableFullError} @throws what the transaction's methods throw
 * @throws {DatabaseError} also 40P01, if this and other transactions wait for each other
 */
export async function takeInTransaction(
  transaction: Transaction,
  request: LockRequest,
  asked: AskedOfTransaction,
): Promise<TransactionLock | Refusal> {
  const { key } = request.wanted;
  try {
    const answer = await tryAndWait(transaction, request, asked);
    if (!("refused" in answer))
      return new TransactionLock(transaction, { key, ttl: asked.ttl, grant: answer });
    await transaction.undo();
    return answer;
  } catch (error) {
    await transaction.fail(error);
    throw aboutLock(error, key);
  }
}

async function tryAndWait(
  transaction: Transaction,
  request: LockRequest,
  { ttl, wait, recovery }: AskedOfTransaction,
): Promise<TransactionGrant | Refusal> {
  const { id, mode } = request.wanted;
  const { client } = transaction;
  const timeout = ttl === undefined ? null : sessionTimeout(ttl);
  const hasLeft = (): boolean => request.abandoned || wait?.signal.aborted === true;
  if (hasLeft()) return { refused: "abandoned" };
  request.sent = true;
  await transaction.begin();
  const ask: AskTransaction = async <T>(question: Statement, values: Array<string | null>) =>
    (await transaction.ask<T>(question, values)).said;
  const recovering = await recovery?.refusesTransaction(client, ask);
  if (recovering !== undefined) return recovering;

  const mark = newMark(timeout);
  const { said: tried, sentAt: triedAt } = await transaction.ask<TryAnswer>(tryTransactionLock[mode], [
    id.toString(),
    mark,
    timeout,
    wait === undefined ? null : lockTimeout(wait.bound),
  ]);
  if (transaction.isOwn && tried.marks) throw clientInTransaction(takingTheLock);
  if (tried.standby) throw new StandbyError();
  if (tried.granted) return hasLeft() ? { refused: "abandoned" } : { mark, provenAt: triedAt };
  if (tried.mine) return { refused: "held", byItself: true };
  if (wait === undefined) return { refused: "held" };
  if (hasLeft()) return { refused: "abandoned" };

  const text = (tried.blocks ? waitForLock : waitForLockPlainly)({ id, mode, mark });
  const deadline = wait.bound + statementDeadline;
  try {
    await untilAnswered({
      ...wait,
      answer: transaction.tell(text, { doing: waitingForTheLock, deadline }),
      cancel: () => transaction.cancel(text, { pid: tried.pid, id }),
    });
  } catch (error) {
    if (!(error instanceof DatabaseError) || !waitEnded.has(error.sqlState)) throw error;
    return { refused: hasLeft() ? "abandoned" : "held" };
  }
  if (hasLeft()) return { refused: "abandoned" };
  const after = [mark, ...tried.before];
  const { said: look, sentAt: lookedAt } = await transaction.ask<LookAnswer>(lookAfterWait, after);
  if (hasLeft()) return { refused: "abandoned" };
  return look.held ? { mark, provenAt: lookedAt } : { refused: "held" };
}

/** A lock that ends with the transaction that it was taken in. */
export class TransactionLock {
  /** Aborts when the TTL has passed, which is before the server ends the transaction for it; or when the server has ended it. */
  readonly lost = new Stop();
  readonly #transaction: Transaction;
  readonly #key: string;
  readonly #grant: TransactionGrant;
  readonly #heartbeat: TransactionHeartbeat | undefined;

  constructor(
    transaction: Transaction,
    { key, ttl, grant }: { key: string; ttl: number | undefined; grant: TransactionGrant },
  ) {
    this.#transaction = transaction;
    this.#key = key;
    this.#grant = grant;
    transaction.onGone((idle) => {
      this.#heartbeat?.stop();
      // If our own clock stood still, the server was first.
      if (idle !== undefined) this.lost.abort(new LockLostError({ key, cause: idle }));
    });
    if (ttl === undefined) return;
    const { beat } = transaction;
    if (beat === undefined) return;
    this.#heartbeat = new TransactionHeartbeat({
      ttl,
      provenAt: grant.provenAt,
      beat: () => beat(ttl),
      expired: () => {
        const expired = new LockExpiredError({ key, ttl });
        transaction.cutOff(expired);
        this.lost.abort(expired);
      },
    });
  }

  get client(): TransactionClient {
    return this.#transaction.client;
  }

  /** Whether its transaction is open, as far as the locker knows. */
  get isOpen(): boolean {
    return this.#transaction.isOpen;
  }

  /**
   * Keeps the lock until the caller's function has ended. Call it before the function begins. Until then, {@link release} takes the lock
   * back, even in a caller's transaction.
   *
   * @throws {DatabaseError} @throws {LockExpiredError} the TTL has passed meanwhile @throws {LockLostError}
   */
  async keep(): Promise<void> {
    await this.#transaction.keep(this.#grant);
    this.#heartbeat?.look();
    this.lost.throwIfAborted();
  }

  /**
   * Commits what the function wrote; in a caller's transaction, leaves that to the caller.
   *
   * @throws {DatabaseError} the lock was not held until now, or the commit failed @throws {LockExpiredError} @throws {LockLostError}
   */
  async commit(): Promise<void> {
    await this.#end(() => this.#transaction.commit());
    if (this.lost.aborted) throw this.lost.reason;
  }

  /** Rolls the transaction back; a caller's transaction is left to the caller. */
  async release(): Promise<void> {
    const ended = this.#end(() => this.#transaction.undo());
    // A dead link gives no answer. If the link lives, the caller's settings are put back all the same.
    if (this.lost.aborted) ended.catch(() => {});
    else await ended;
  }

  async #end(how: () => Promise<void>): Promise<void> {
    this.#heartbeat?.look();
    this.#heartbeat?.stop();
    try {
      await how();
    } catch (error) {
      throw this.lost.aborted ? this.lost.reason : aboutLock(error, this.#key);
    }
  }
}

/** Adds the key to an error, and names a deadlock in English, because the server's message is in the server's language. */
function aboutLock(error: unknown, key: string): unknown {
  if (!(error instanceof DatabaseError)) return error;
  const { sqlState, cause } = error;
  const isDeadlock = error.doing === waitingForTheLock && sqlState === deadlockDetected;
  const doing = isDeadlock ? "A deadlock with another transaction: waiting for the lock" : error.doing;
  return namedLockError(new DatabaseError({ doing, key, cause }));
}
