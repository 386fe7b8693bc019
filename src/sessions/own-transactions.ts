import { toError } from "../contract/caught-error.ts";
import type { Pool } from "../postgres/driver.ts";
import { reserveSession } from "../postgres/reservation.ts";
import { Session, statementDeadline } from "../postgres/session.ts";
import { cancelWaiter } from "../postgres/sql-transaction.ts";
import { abandonOnAbort, pauseFor, type StopSignal } from "../runtime/stop-signal.ts";
import type { LockRequest, Refusal } from "./grant.ts";
import { OwnTransaction } from "./own-transaction.ts";
import type { RecoveryGrace } from "./recovery-grace.ts";
import { reserveFor } from "./reserve-for.ts";
import {
  type AskedOfTransaction,
  type TransactionLock,
  type TransactionWait,
  takeInTransaction,
} from "./transaction-lock.ts";

/** Milliseconds for a session of which a wait is to be cancelled. */
const cancelReservation = 1_000;
/** Milliseconds until the next try, if the pool's client has the lock by the application's own doing. */
const pauseForOwnSession = 200;

/**
 * Transactions of the locker's own, each on a session of the pool, of which nothing is used but the transaction: so one of a
 * pooler in transaction mode serves as well.
 */
export class OwnTransactions {
  readonly #from: { pool: Pool; wait: number; recovery: RecoveryGrace | undefined };
  /** Those that have their lock. */
  readonly #open = new Set<OwnTransaction>();

  /** `wait`: milliseconds for a session. */
  constructor(from: { pool: Pool; wait: number; recovery: RecoveryGrace | undefined }) {
    this.#from = from;
  }

  /**
   * Begins a transaction, and tries for the lock in it. With a `wait` it then waits in the server, for one bound at most; and for a
   * session before that. A wait that is aborted ends at once, with the refusal `"abandoned"`. After a refusal nothing is left of the
   * transaction.
   *
   * The server queues those who wait, and whoever waits anew is the last. Each wait is a transaction of its own, so that none
   * holds a snapshot for longer than the bound.
   *
   * @throws {LockNotAcquiredError} `"connection-timeout"` @throws {StandbyError} @throws {LockTableFullError}
   * @throws {DatabaseError} also if the pool's client was in a transaction already, after which it is destroyed; and 40P01, if this and
   *   other transactions wait for each other
   */
  async take(
    request: LockRequest,
    { ttl, wait }: Omit<AskedOfTransaction, "recovery"> = {},
  ): Promise<TransactionLock | Refusal> {
    if (wait?.signal.aborted) return { refused: "abandoned" };
    const session = await this.#reserve(request, wait?.signal);
    if ("refused" in session) return session;
    const { key } = request;
    const transaction = new OwnTransaction(session, { key, ended: () => this.#open.delete(transaction) });
    const { recovery } = this.#from;
    const answer = await takeInTransaction(transaction, request, { ttl, wait, recovery });
    if (!("refused" in answer)) this.#open.add(transaction);
    else if (answer.refused === "held" && answer.byItself) return heldByPool(wait);
    return answer;
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

/** The session of the pool has the lock itself, and may be had again at once; another one would wait for it. */
async function heldByPool(wait: TransactionWait | undefined): Promise<Refusal> {
  if (wait === undefined) return { refused: "held" };
  await pauseFor(Math.min(pauseForOwnSession, wait.bound), [wait.signal]).catch(() => {});
  return { refused: wait.signal.aborted ? "abandoned" : "held" };
}
