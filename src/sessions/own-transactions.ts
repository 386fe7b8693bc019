import {
  DatabaseError,
  InvalidConfigError,
  LockerClosedError,
  namedLockError,
  StandbyError,
} from "../contract/errors.ts";
import type { TransactionClient } from "../contract/locker.ts";
import { type Client, type Pool, query, type Statement } from "../postgres/driver.ts";
import { type Session, statementDeadline } from "../postgres/session.ts";
import {
  begin,
  commit,
  committed,
  hasLock,
  rollback,
  type TryTransactionLockAnswer,
  tryTransactionLock,
} from "../postgres/sql.ts";
import { within } from "../runtime/clock.ts";
import type { LockRequest, Refusal } from "./grant.ts";
import type { RecoveryGrace } from "./recovery-grace.ts";
import { reserveFor } from "./reserve-for.ts";

/** A lock that ends with the transaction that it was taken in. */
export interface TransactionLock {
  readonly client: TransactionClient;
  /** Whether its end will be noticed, by its locker, and has not been yet. */
  readonly isOpen: boolean;
  /** What the caller wrote is kept. @throws {DatabaseError} */
  commit(): Promise<void>;
  /** Nothing of it is. @throws {DatabaseError} then the session was ended, and so was the transaction */
  release(): Promise<void>;
}

/** Transactions of the locker's own, each on a session of the pool. */
export class OwnTransactions {
  readonly #from: { pool: Pool; wait: number; recovery: RecoveryGrace | undefined };
  readonly #open = new Set<OwnTransaction>();

  /** `wait`: milliseconds for a session. */
  constructor(from: { pool: Pool; wait: number; recovery: RecoveryGrace | undefined }) {
    this.#from = from;
  }

  /** Nothing of a session is used but the transaction, so that one of a pooler in transaction mode serves as well. */
  async tryLock(request: LockRequest): Promise<TransactionLock | Refusal> {
    const session = await reserveFor(request, this.#from);
    if ("refused" in session) return session;
    const { id, mode } = request;
    request.sent = true;
    const doing = "Taking a lock in a transaction";
    try {
      await session.command(doing, begin, statementDeadline);
      const recovering = await this.#from.recovery?.refusesTransaction(session.client);
      if (recovering !== undefined) {
        await session.command(doing, rollback, statementDeadline);
        session.return();
        return recovering;
      }
      const { said } = await session.run<TryTransactionLockAnswer>(
        doing,
        tryTransactionLock[mode],
        [id.toString()],
        statementDeadline,
      );
      if (said.standby) throw new StandbyError();
      if (said.granted) {
        const transaction = new OwnTransaction(session, () => this.#open.delete(transaction));
        this.#open.add(transaction);
        return transaction;
      }
      await session.command(doing, rollback, statementDeadline);
    } catch (error) {
      session.destroy(error as Error);
      throw namedLockError(error);
    }
    session.return();
    return { refused: "held" };
  }

  /**
   * Ends every transaction that is open; nothing of them is kept. One whose end is under way comes to that, within seconds.
   * Never rejects.
   */
  async close(): Promise<void> {
    await Promise.all([...this.#open].map((transaction) => transaction.close()));
  }
}

class OwnTransaction implements TransactionLock {
  readonly client: TransactionClient;
  readonly #session: Session;
  readonly #ended: () => void;
  #ending: Promise<unknown> | undefined;

  constructor(session: Session, ended: () => void) {
    this.client = session.client as unknown as TransactionClient;
    this.#session = session;
    this.#ended = ended;
  }

  get isOpen(): boolean {
    return this.#session.goneBecause === undefined;
  }

  async commit(): Promise<void> {
    const doing = "Committing";
    if (this.#session.client.getTransactionStatus?.() === "I") {
      await this.#end(doing, rollback);
      const cause = new Error("the function had ended the transaction itself, and so the lock");
      throw new DatabaseError({ doing, cause });
    }
    if ((await this.#end(doing, commit)) === committed) return;
    // With another tag, and no error, the server answers where a statement had failed.
    const cause = new Error("a statement of the transaction had failed, and so it was rolled back");
    throw new DatabaseError({ doing, cause });
  }

  async release(): Promise<void> {
    await this.#end("Rolling back", rollback);
  }

  /** Never rejects. */
  async close(): Promise<void> {
    // Cut off in mid-commit, nobody would know whether it took effect.
    if (this.#ending === undefined) this.#session.destroy(new LockerClosedError());
    else await this.#ending.catch(() => {});
  }

  #end(doing: string, statement: Statement): Promise<string> {
    const ending = this.#sendEnd(doing, statement);
    this.#ending = ending;
    return ending;
  }

  async #sendEnd(doing: string, statement: Statement): Promise<string> {
    const session = this.#session;
    try {
      const tag = await session.command(doing, statement, statementDeadline);
      session.return();
      return tag;
    } catch (error) {
      session.destroy(error as Error);
      throw session.goneBecause instanceof LockerClosedError ? session.goneBecause : error;
    } finally {
      this.#ended();
    }
  }
}

/**
 * Takes the lock in a transaction that its caller has open, and ends. A refusal changes nothing in it; nor does a loss of
 * patience, but for the lock itself, which then stays until the transaction ends.
 *
 * @throws {InvalidConfigError} the client is not in a transaction @throws {StandbyError} @throws {DatabaseError}
 */
export async function tryLockOn(
  client: TransactionClient,
  request: LockRequest,
  recovery: RecoveryGrace | undefined,
): Promise<TransactionLock | Refusal> {
  const recovering = await recovery?.refusesTransaction(client as unknown as Client);
  if (recovering !== undefined) return recovering;
  const id = request.id.toString();
  const ask = async <T>(doing: string, statement: Statement): Promise<T> => {
    try {
      const asking = (client as unknown as Client).query(query(statement, [id]));
      const { rows } = await within(statementDeadline, asking);
      return JSON.parse(String(rows[0]?.[0])) as T;
    } catch (cause) {
      throw namedLockError(new DatabaseError({ doing, cause }));
    }
  };
  const doing = "Taking a lock in a transaction";
  const { standby, granted } = await ask<TryTransactionLockAnswer>(doing, tryTransactionLock[request.mode]);
  if (standby) throw new StandbyError();
  if (!granted) return { refused: "held" };
  if (!(await ask<boolean>(doing, hasLock))) {
    throw new InvalidConfigError({
      field: "client",
      got: client,
      wants: "a client with a transaction begun",
    });
  }
  return {
    client,
    isOpen: false,
    commit: async () => {},
    release: async () => {},
  };
}
