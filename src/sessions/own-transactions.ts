import { toError } from "../contract/caught-error.ts";
import { type DatabaseError, StandbyError } from "../contract/errors.ts";
import { cancelStatement } from "../postgres/cancel.ts";
import { type Pool, type Statement, statement } from "../postgres/driver.ts";
import { type Recovering, reserveSession } from "../postgres/reservation.ts";
import { clientInTransaction, Session, statementDeadline } from "../postgres/session.ts";
import { waitEnded } from "../postgres/sql.ts";
import {
  begin,
  cancelWaiter,
  type LookAnswer,
  lookAfterWait,
  newMark,
  probeTransaction,
  rollback,
  type TryAnswer,
  tryTransactionLock,
  waitForLock,
  waitForLockPlainly,
} from "../postgres/sql-transaction.ts";
import type { Instant } from "../runtime/clock.ts";
import { abandonOnAbort, pauseFor, type StopSignal } from "../runtime/stop-signal.ts";
import type { LockRequest, Refusal } from "./grant.ts";
import { OwnTransaction, type TransactionGrant } from "./own-transaction.ts";
import type { RecoveryGrace } from "./recovery-grace.ts";
import { reserveFor } from "./reserve-for.ts";
import { sessionTimeout } from "./server-ttl.ts";
import {
  aboutLock,
  lockTimeout,
  type TransactionLock,
  type TransactionTtl,
  type TransactionWait,
  takingTheLock,
  untilAnswered,
  waitingForTheLock,
} from "./transaction-lock.ts";

/** Milliseconds for a session of which a wait is to be cancelled. */
const cancelReservation = 1_000;
/** Milliseconds until the next try, where the pool's client has the lock by the application's own doing. */
const pauseForOwnSession = 200;

/**
 * Transactions of the locker's own, each on a session of the pool, of which nothing is used but the transaction: so one of a
 * pooler in transaction mode serves as well.
 *
 *     reserved ── begin ── try ─┬─ granted ────────────────────────▶ open ── commit, rollback ──▶ returned
 *                               └─ refused ─┬─ wait, at most once ──▶ open      └─ no answer ──▶ destroyed
 *                                           └─ rollback ──▶ returned
 *
 * On a failure the session is destroyed, and the transaction with it.
 */
export class OwnTransactions {
  readonly #from: { pool: Pool; wait: number; recovery: RecoveryGrace | undefined };
  readonly #open = new Set<OwnTransaction>();

  /** `wait`: milliseconds for a session. */
  constructor(from: { pool: Pool; wait: number; recovery: RecoveryGrace | undefined }) {
    this.#from = from;
  }

  /**
   * Begins a transaction and tries for the lock in it, once. After a refusal nothing is left of it.
   *
   * @throws {LockNotAcquiredError} `"connection-timeout"` @throws {StandbyError} @throws {LockTableFullError}
   * @throws {DatabaseError} also if the pool's client was in a transaction already; the client is destroyed then
   */
  tryLock(request: LockRequest, { ttl }: TransactionTtl = {}): Promise<TransactionLock | Refusal> {
    return this.#take(request, ttl);
  }

  /**
   * The same, and waits in the server for the lock, for one bound at most; and for a session before that. A wait that is
   * aborted ends at once, with the refusal `"abandoned"`, and nothing is left of it.
   *
   * The server queues those who wait, and whoever waits anew is the last. Each wait is a transaction of its own, so that none
   * holds a snapshot for longer than the bound.
   *
   * @throws what {@link tryLock} throws; {DatabaseError} 40P01, if this and other transactions wait for each other
   */
  async waitLock(request: LockRequest, wait: TransactionWait): Promise<TransactionLock | Refusal> {
    const { signal } = wait;
    if (signal.aborted) return { refused: "abandoned" };
    return this.#take(request, wait.ttl, wait);
  }

  /**
   * Cancels what a session waits for, if that is the lock of a request: for a client whose own driver can't. Never rejects.
   */
  async cancelWait(pid: number, id: bigint): Promise<void> {
    const session = await reserveSession(this.#from.pool, cancelReservation).catch(() => undefined);
    if (!(session instanceof Session)) return;
    try {
      await session.run(
        "Cancelling a wait",
        cancelWaiter,
        [pid.toString(), id.toString()],
        statementDeadline,
      );
    } catch (error) {
      session.destroy(toError(error));
    }
    session.return();
  }

  /**
   * Ends every transaction that is open; nothing of them is kept. One whose end is under way comes to that, within seconds.
   * Never rejects.
   */
  async close(): Promise<void> {
    await Promise.all([...this.#open].map((transaction) => transaction.close()));
  }

  async #take(
    request: LockRequest,
    ttl: number | undefined,
    wait?: TransactionWait,
  ): Promise<TransactionLock | Refusal> {
    const session = await this.#reserve(request, wait?.signal);
    if ("refused" in session) return session;
    request.sent = true;
    let granted: TransactionGrant | Held | Recovering;
    try {
      granted = await inNewTransaction(session, { request, ttl, wait, recovery: this.#from.recovery });
      if ("refused" in granted) await session.command(takingTheLock, rollback, statementDeadline);
    } catch (error) {
      session.destroy(toError(error));
      throw aboutLock(error, request.key);
    }
    if ("refused" in granted) {
      session.return();
      if (granted.refused === "recovering") return granted;
      // The same client may be had again at once.
      if (granted.byItself && wait) {
        await pauseFor(Math.min(pauseForOwnSession, wait.bound), [wait.signal]).catch(() => {});
      }
      return { refused: wait?.signal.aborted ? "abandoned" : "held" };
    }
    const { key } = request;
    const transaction = new OwnTransaction(session, {
      ...granted,
      key,
      ttl,
      ended: () => this.#open.delete(transaction),
    });
    this.#open.add(transaction);
    return transaction;
  }

  async #reserve(request: LockRequest, signal: StopSignal | undefined): Promise<Session | Refusal> {
    const reserved = reserveFor(request, this.#from);
    return abandonOnAbort(reserved, [signal], () => {
      // One that arrives later goes back untouched.
      request.abandoned = true;
    }).catch((error: unknown) => {
      if (request.abandoned) return { refused: "abandoned" };
      throw error;
    });
  }
}

type Held = Extract<Refusal, { refused: "held" }>;

/** @returns a refusal, if the lock is held, the server's locks are too young, or the wait was aborted: the transaction is to be rolled back then */
async function inNewTransaction(
  session: Session,
  asked: {
    request: LockRequest;
    ttl: number | undefined;
    wait: TransactionWait | undefined;
    recovery: RecoveryGrace | undefined;
  },
): Promise<TransactionGrant | Held | Recovering> {
  const { request, ttl, wait, recovery } = asked;
  const { id, mode } = request;
  const mark = newMark();
  const doing = takingTheLock;
  const ask = async <T>(what: Statement, values: Array<string | null>): Promise<T & { sentAt: Instant }> => {
    const { said, sentAt } = await session.run<T>(doing, what, values, statementDeadline);
    return { ...said, sentAt };
  };
  session.assertOutsideTransaction(doing);
  const tells = session.client.getTransactionStatus !== undefined;
  if (!tells) await session.run(doing, probeTransaction, [newMark()], statementDeadline);
  await session.command(doing, begin, statementDeadline);
  const recovering = await recovery?.refusesTransaction(session.client, ask);
  if (recovering !== undefined) return recovering;
  const tried = await ask<TryAnswer>(tryTransactionLock[mode], [
    id.toString(),
    mark,
    ttl === undefined ? null : sessionTimeout(ttl),
    wait === undefined ? null : lockTimeout(wait.bound),
  ]);
  if (tried.marks) throw clientInTransaction(doing);
  if (tried.standby) throw new StandbyError();
  if (tried.granted) return { mark, provenAt: tried.sentAt };
  if (tried.mine) return { refused: "held", byItself: true };
  if (wait === undefined || wait.signal.aborted) return { refused: "held" };
  const waitFor = tried.blocks ? waitForLock : waitForLockPlainly;
  const waited = session.command(
    waitingForTheLock,
    statement(waitFor({ id, mode, mark })),
    wait.bound + statementDeadline,
  );
  try {
    await untilAnswered(waited, wait.signal, () => cancelStatement(session.client));
  } catch (error) {
    const { sqlState } = error as DatabaseError;
    if (!waitEnded.has(sqlState)) throw error;
    return { refused: "held" };
  }
  if (wait.signal.aborted) return { refused: "held" };
  const [lock, statementTime] = tried.before;
  const { held, sentAt } = await ask<LookAnswer>(lookAfterWait, [mark, lock, statementTime]);
  return held && !wait.signal.aborted ? { mark, provenAt: sentAt } : { refused: "held" };
}
