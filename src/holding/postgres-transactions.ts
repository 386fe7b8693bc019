import type { TransactionClient } from "../contract/clients.ts";
import { LockNotAcquiredError } from "../contract/errors.ts";
import type { Pool } from "../postgres/driver.ts";
import { Stop } from "../runtime/stop-signal.ts";
import { takeInCallers, untilSettled } from "../sessions/callers-transaction.ts";
import { cancelled, type LockRequest, type Refusal, type TryListener, tell } from "../sessions/grant.ts";
import { OwnTransactions } from "../sessions/own-transactions.ts";
import type { RecoveryGrace } from "../sessions/recovery-grace.ts";
import type { TransactionLock, TransactionWait } from "../sessions/transaction-lock.ts";
import { isInTransactionOf } from "../waiting/reentrancy.ts";
import type { TransactionStore, TransactionStores, TransactionWanted } from "./locks-in-transactions.ts";

/** Where the locks of `withTransaction` live with a `PostgresLocker`. */
export class PostgresTransactions implements TransactionStores {
  readonly #own: OwnTransactions;
  readonly #recovery: RecoveryGrace | undefined;

  /** `connWaitTimeout`: the longest wait for a connection of the pool, in milliseconds. */
  constructor(parts: { pool: Pool; connWaitTimeout: number; recovery: RecoveryGrace | undefined }) {
    const { pool, connWaitTimeout, recovery } = parts;
    this.#own = new OwnTransactions({ pool, wait: connWaitTimeout, recovery });
    this.#recovery = recovery;
  }

  storeFor({ client, ttl }: TransactionWanted): TransactionStore {
    if (client === undefined) return new OwnTransactionStore(this.#own, ttl);
    return new CallersTransactionStore({ client, ttl, recovery: this.#recovery, own: this.#own });
  }

  /** Rolls back every transaction that the locker began itself. Never rejects. */
  close(): Promise<void> {
    return this.#own.close();
  }
}

/** Acquires locks in transactions that the locker begins itself. They have done nothing before, so only the first of a line needs a connection. */
class OwnTransactionStore implements TransactionStore {
  readonly bringsPlace = true;
  readonly #transactions: OwnTransactions;
  readonly #ttl: number | undefined;

  constructor(transactions: OwnTransactions, ttl: number | undefined) {
    this.#transactions = transactions;
    this.#ttl = ttl;
  }

  tryLock(request: LockRequest, listener: TryListener<TransactionLock>): void {
    tell(listener, this.#transactions.take(request, { ttl: this.#ttl }));
  }

  hasPlaceToWait(): boolean {
    return true;
  }

  waitLock(request: LockRequest, bound: number, listener: TryListener<TransactionLock>): void {
    const wait = { bound, signal: cancelled(request) };
    tell(listener, this.#transactions.take(request, { ttl: this.#ttl, wait }));
  }
}

/** Acquires locks in callers' transactions. Each wait begins in the server at once: in a line in this process, no deadlock would be detected. */
class CallersTransactionStore implements TransactionStore {
  readonly bringsPlace = true;
  readonly skipsLine = true;
  readonly hopeless = new Stop();
  readonly #client: TransactionClient;
  readonly #ttl: number | undefined;
  readonly #recovery: RecoveryGrace | undefined;
  readonly #own: OwnTransactions;
  readonly #isWithin: boolean;
  #asked: LockRequest | undefined;
  #settled: Promise<void> | undefined;

  constructor(parts: {
    client: TransactionClient;
    ttl: number | undefined;
    recovery: RecoveryGrace | undefined;
    own: OwnTransactions;
  }) {
    this.#client = parts.client;
    this.#ttl = parts.ttl;
    this.#recovery = parts.recovery;
    this.#own = parts.own;
    this.#isWithin = isInTransactionOf(parts.client);
  }

  tryLock(request: LockRequest, listener: TryListener<TransactionLock>): void {
    tell(listener, this.#take(request));
  }

  hasPlaceToWait(): boolean {
    return true;
  }

  waitLock(request: LockRequest, bound: number, listener: TryListener<TransactionLock>): void {
    tell(listener, this.#take(request, { bound, signal: cancelled(request) }));
  }

  async settled(): Promise<void> {
    if (this.#asked?.sent) await this.#settled;
  }

  async #take(request: LockRequest, wait?: TransactionWait): Promise<TransactionLock | Refusal> {
    this.#asked = request;
    const answer = takeInCallers(this.#client, request, {
      ttl: this.#ttl,
      wait,
      recovery: this.#recovery,
      isWithin: this.#isWithin,
      cancelWait: (pid, lockId) => this.#own.cancelWait(pid, lockId),
    });
    this.#settled = untilSettled(this.#client, this.#isWithin);
    // Any error ends the attempt, because only the caller can begin its transaction anew.
    answer.catch((error: unknown) => this.hopeless.abort(error));
    const granted = await answer;
    if ("refused" in granted && granted.refused === "held" && granted.byItself) {
      this.hopeless.abort(
        new LockNotAcquiredError({ key: request.wanted.key, reason: "held", ownHold: { by: "client" } }),
      );
    }
    return granted;
  }
}
