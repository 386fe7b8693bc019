import { toError } from "../contract/caught-error.ts";
import { connectBeside } from "../postgres/beside.ts";
import { canConnectBeside, hasRoom, type Pool } from "../postgres/driver.ts";
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

/** Milliseconds to wait for a session from which a wait is cancelled. */
const cancelReservation = 1_000;
/** Milliseconds until the next try if the pool's own client has the lock, because the application took it there. */
const pauseForOwnSession = 200;

/**
 * The locker's own transactions, each on a session of the pool. They use nothing of the session but the transaction, so they also work
 * behind a pooler in transaction mode.
 */
export class OwnTransactions {
  readonly #from: { pool: Pool; wait: number; recovery: RecoveryGrace | undefined };
  /** The transactions that have their lock. */
  readonly #open = new Set<OwnTransaction>();

  /** `wait`: milliseconds to wait for a session. */
  constructor(from: { pool: Pool; wait: number; recovery: RecoveryGrace | undefined }) {
    this.#from = from;
  }

  /**
   * Begins a transaction and tries to take the lock in it. With a `wait`, it first waits for a session, and then in the server, for at most
   * one bound. An aborted wait ends at once with the refusal `"abandoned"`. After a refusal nothing is left of the transaction.
   *
   * The server queues the waiters; one that waits again goes to the end. Each wait is a transaction of its own, so that none keeps a
   * snapshot for longer than the bound.
   *
   * @throws {LockNotAcquiredError} `"connection-timeout"` @throws {StandbyError} @throws {LockTableFullError}
   * @throws {DatabaseError} also if the pool's client was in a transaction already, which destroys the client; and 40P01 if this and other
   *   transactions wait for each other
   */
  async take(
    request: LockRequest,
    { ttl, wait }: Omit<AskedOfTransaction, "recovery"> = {},
  ): Promise<TransactionLock | Refusal> {
    if (wait?.signal.aborted) return { refused: "abandoned" };
    const session = await this.#reserve(request, wait?.signal);
    if ("refused" in session) return session;
    const { key } = request.wanted;
    const transaction = new OwnTransaction(session, { key, ended: () => this.#open.delete(transaction) });
    const { recovery } = this.#from;
    const answer = await takeInTransaction(transaction, request, { ttl, wait, recovery });
    if (!("refused" in answer)) this.#open.add(transaction);
    else if (answer.refused === "held" && answer.byItself) return heldByPool(wait);
    return answer;
  }

  /** Cancels the wait of the backend `pid` for the lock `id`, for a client whose driver can't. Never rejects. */
  async cancelWait(pid: number, id: bigint): Promise<void> {
    const { pool } = this.#from;
    const doing = "Cancelling a wait";
    const run = async (session: Session): Promise<void> => {
      try {
        await session.run(doing, cancelWaiter, [pid.toString(), id.toString()], statementDeadline);
      } catch (error) {
        session.destroy(toError(error));
      }
    };
    // The caller's transaction may be on the last connection of the pool.
    if (!hasRoom(pool) && canConnectBeside(pool)) {
      const milliseconds = cancelReservation;
      const own = await connectBeside(pool, { doing, milliseconds }).catch(() => undefined);
      if (own !== undefined) {
        await run(own.session);
        await own.end();
        return;
      }
      // The server may allow no further connection, but one of the pool may become free.
    }
    const session = await reserveSession(pool, { wait: cancelReservation }).catch(() => undefined);
    if (!(session instanceof Session)) return;
    await run(session);
    session.return();
  }

  /** Rolls back every open transaction; one that is already ending is waited for, which takes seconds at most. Never rejects. */
  async close(): Promise<void> {
    await Promise.all([...this.#open].map((transaction) => transaction.close()));
  }

  async #reserve(request: LockRequest, signal: StopSignal | undefined): Promise<Session | Refusal> {
    const reserved = reserveFor(request, { ...this.#from, left: signal });
    return abandonOnAbort(reserved, [signal], () => {
      // One that arrives later goes back untouched.
      request.abandoned = true;
    }).catch((error: unknown) => {
      if (request.abandoned) return { refused: "abandoned" };
      throw error;
    });
  }
}

/** Refuses after a pause, because the pool's session has the lock itself, and would be handed out again at once. */
async function heldByPool(wait: TransactionWait | undefined): Promise<Refusal> {
  if (wait === undefined) return { refused: "held" };
  await pauseFor(Math.min(pauseForOwnSession, wait.bound), [wait.signal]).catch(() => {});
  return { refused: wait.signal.aborted ? "abandoned" : "held" };
}
