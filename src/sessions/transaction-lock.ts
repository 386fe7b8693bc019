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
import { countTtl, TransactionHeartbeat, ttlWithin } from "./transaction-heartbeat.ts";
import { lockTimeout, untilAnswered } from "./until-answered.ts";

/**
 * How a transaction is spoken to that a lock is taken in: one of the locker's own, or one that its caller brings. What is said is the
 * same in both.
 *
 *     begin ── try ─┬─ granted ─────────────────────────────┬─▶ keep ── the function ──▶ commit, undo
 *                   └─ refused ── wait, at most once, look ─┤
 *                                                           └─ refused ──▶ undo
 *     a fault before keep ──▶ fail
 */
export interface Transaction {
  readonly client: TransactionClient;
  /** The locker begins and ends it. */
  readonly isOwn: boolean;
  /** Whether the locker will notice its end, and has not yet. */
  readonly isOpen: boolean;
  /** Has all that is done from here on be undone by {@link undo}. */
  begin(): Promise<void>;
  ask<T>(question: Statement, values: Array<string | null>): Promise<Answer<T>>;
  /** Sends a statement that returns nothing, which may take so many milliseconds. */
  tell(text: string, about: { doing: string; deadline: number }): Promise<unknown>;
  /** Cancels the statement with this text, which waits for a lock id in the backend with this pid. Never rejects. */
  cancel(text: string, waiter: { pid: number; id: bigint }): Promise<void>;
  /**
   * Leaves nothing of the lock; nor of the transaction, if that is the locker's own. Once the lock is `kept`, it leaves a transaction
   * of the caller's as it is, to whoever began it.
   *
   * @throws what a rollback of the locker's own transaction fails with
   */
  undo(kept?: TransactionGrant): Promise<void>;
  /** Leaves nothing of the lock after a fault. Never rejects. */
  fail(error: unknown): Promise<void>;
  /** From here on the function runs in it. */
  keep(): Promise<void>;
  /** Ends it, or the caller's lock in it, if the lock is held until now. @throws why it was not */
  commit(kept: TransactionGrant): Promise<void>;
  /** Keeps it from being idle; absent if nothing can be sent beside the function's own statements. */
  readonly beat: ((ttl: number) => Promise<unknown>) | undefined;
  /** Ends the locker's own at once, even in the middle of a statement. */
  cutOff(cause: Error): void;
  /** Calls `listener` once, if the session of the locker's own goes by itself; with an error if the server ended it as idle. */
  onGone(listener: (idle: Error | undefined) => void): void;
}

/** A lock as granted in a transaction. */
export interface TransactionGrant {
  readonly mark: Mark;
  /** When a statement was sent that showed the lock to be held. */
  readonly provenAt: Instant;
  /** What `idle_in_transaction_session_timeout` was; null: it was left as it is. */
  readonly idleTimeout: string | null;
}

/** A wait in the server. */
export interface TransactionWait {
  /** Milliseconds that the server is asked to wait. */
  readonly bound: number;
  /** Ends the wait, by a cancellation in the server. */
  readonly signal: StopSignal;
}

export interface AskedOfTransaction {
  /** How long the transaction may be idle, in milliseconds, until the server ends it; `undefined`: for ever. */
  readonly ttl?: number | undefined;
  /** If the lock is held: to wait in the server, once. */
  readonly wait?: TransactionWait | undefined;
  readonly recovery?: RecoveryGrace | undefined;
}

export const takingTheLock = "Taking the lock";
const waitingForTheLock = "Waiting for the lock";

/**
 * Takes the lock in a transaction, after a wait in the server if one is asked for, or is refused. Whoever has left by then gets the
 * refusal `"abandoned"`. After a refusal or a fault nothing is left of the lock.
 *
 * @throws {StandbyError} @throws {LockTableFullError} @throws what the transaction's methods throw
 * @throws {DatabaseError} also 40P01, if this and other transactions wait for each other
 */
export async function takeInTransaction(
  transaction: Transaction,
  request: LockRequest,
  asked: AskedOfTransaction,
): Promise<TransactionLock | Refusal> {
  const { key } = request;
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
  const { id, mode } = request;
  const { client } = transaction;
  const hasLeft = (): boolean => request.abandoned || wait?.signal.aborted === true;
  if (hasLeft()) return { refused: "abandoned" };
  request.sent = true;
  await transaction.begin();
  const ask: AskTransaction = async <T>(question: Statement, values: Array<string | null>) =>
    (await transaction.ask<T>(question, values)).said;
  const recovering = await recovery?.refusesTransaction(client, ask);
  if (recovering !== undefined) return recovering;

  const mark = newMark();
  const { said: tried, sentAt: triedAt } = await transaction.ask<TryAnswer>(tryTransactionLock[mode], [
    id.toString(),
    mark,
    ttl === undefined ? null : sessionTimeout(ttlWithin(client, ttl)),
    wait === undefined ? null : lockTimeout(wait.bound),
  ]);
  if (transaction.isOwn && tried.marks) throw clientInTransaction(takingTheLock);
  if (tried.standby) throw new StandbyError();
  const [lockTimeoutBefore, statementTimeoutBefore, idleTimeoutBefore] = tried.before;
  const idleTimeout = ttl === undefined ? null : idleTimeoutBefore;
  if (tried.granted) return hasLeft() ? { refused: "abandoned" } : { mark, provenAt: triedAt, idleTimeout };
  if (tried.mine) return { refused: "held", byItself: true };
  if (wait === undefined) return { refused: "held" };
  if (hasLeft()) return { refused: "abandoned" };

  const text = (tried.blocks ? waitForLock : waitForLockPlainly)({ id, mode, mark });
  const deadline = wait.bound + statementDeadline;
  try {
    const waiting = transaction.tell(text, { doing: waitingForTheLock, deadline });
    await untilAnswered(waiting, wait.signal, () => transaction.cancel(text, { pid: tried.pid, id }));
  } catch (error) {
    if (!(error instanceof DatabaseError) || !waitEnded.has(error.sqlState)) throw error;
    return { refused: hasLeft() ? "abandoned" : "held" };
  }
  if (hasLeft()) return { refused: "abandoned" };
  const before = [lockTimeoutBefore, statementTimeoutBefore];
  const { said: look, sentAt: lookedAt } = await transaction.ask<LookAnswer>(lookAfterWait, [
    mark,
    ...before,
  ]);
  if (hasLeft()) return { refused: "abandoned" };
  return look.held ? { mark, provenAt: lookedAt, idleTimeout } : { refused: "held" };
}

/** A lock that ends with the transaction that it was taken in. */
export class TransactionLock {
  /** Aborts when its TTL has passed, before the server ends the transaction for that; or when the server has. */
  readonly lost = new Stop();
  readonly #transaction: Transaction;
  readonly #key: string;
  readonly #grant: TransactionGrant;
  readonly #heartbeat: TransactionHeartbeat | undefined;
  readonly #uncount: (() => void) | undefined;
  #isKept = false;

  constructor(
    transaction: Transaction,
    { key, ttl, grant }: { key: string; ttl: number | undefined; grant: TransactionGrant },
  ) {
    this.#transaction = transaction;
    this.#key = key;
    this.#grant = grant;
    transaction.onGone((idle) => {
      this.#heartbeat?.stop();
      // Before our own clock, if that stood still.
      if (idle !== undefined) this.lost.abort(new LockLostError({ key, cause: idle }));
    });
    if (ttl === undefined) return;
    this.#uncount = countTtl(transaction.client, ttl);
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

  /** Whether its end will be noticed, by its locker, and has not been yet. */
  get isOpen(): boolean {
    return this.#transaction.isOpen;
  }

  /**
   * Nobody gives the lock up any more before the function has ended: to be called before that begins. Until then, {@link release}
   * leaves nothing of the lock, in a transaction of the caller's, too.
   *
   * @throws {DatabaseError}
   */
  async keep(): Promise<void> {
    this.#isKept = true;
    await this.#transaction.keep();
  }

  /**
   * What the function wrote is kept, or will be when the caller commits; and the lock was held until now.
   *
   * @throws {DatabaseError} it was not, or the commit failed @throws {LockExpiredError} @throws {LockLostError}
   */
  async commit(): Promise<void> {
    await this.#end(() => this.#transaction.commit(this.#grant));
    if (this.lost.aborted) throw this.lost.reason;
  }

  /** Nothing of it is kept; or, in a transaction of the caller's, that is the caller's to say. */
  async release(): Promise<void> {
    const ended = this.#end(() => this.#transaction.undo(this.#isKept ? this.#grant : undefined));
    // On a link that is dead there is no answer; on one that is not, the caller's settings are put back all the same.
    if (this.lost.aborted) ended.catch(() => {});
    else await ended;
  }

  async #end(how: () => Promise<void>): Promise<void> {
    this.#heartbeat?.look();
    this.#heartbeat?.stop();
    this.#uncount?.();
    try {
      await how();
    } catch (error) {
      throw this.lost.aborted ? this.lost.reason : aboutLock(error, this.#key);
    }
  }
}

/** What failed, and for which lock. A deadlock by its name: the server says so in its own language. */
function aboutLock(error: unknown, key: string): unknown {
  if (!(error instanceof DatabaseError)) return error;
  const { sqlState, cause } = error;
  const isDeadlock = error.doing === waitingForTheLock && sqlState === deadlockDetected;
  const doing = isDeadlock ? "A deadlock with another transaction: waiting for the lock" : error.doing;
  return namedLockError(new DatabaseError({ doing, key, cause }));
}
