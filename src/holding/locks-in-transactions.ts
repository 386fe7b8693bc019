import { assertFunction, assertTransactionOptions } from "../contract/acquire-options.ts";
import type { TransactionClient, TransactionOptions } from "../contract/clients.ts";
import { LockNotAcquiredError } from "../contract/errors.ts";
import type { LockKey } from "../contract/lock-key.ts";
import type { AcquireOptions } from "../contract/locker.ts";
import { announcedBackend, type Pool } from "../postgres/driver.ts";
import { abandonOnAbort, Stop } from "../runtime/stop-signal.ts";
import type { Telemetry } from "../runtime/telemetry.ts";
import { takeInCallers, untilSettled } from "../sessions/callers-transaction.ts";
import {
  cancelled,
  type LockRequest,
  type LockStore,
  type Refusal,
  type TryListener,
  tell,
} from "../sessions/grant.ts";
import { OwnTransactions } from "../sessions/own-transactions.ts";
import type { RecoveryGrace } from "../sessions/recovery-grace.ts";
import { assertEnforceableTtl } from "../sessions/server-ttl.ts";
import type { TransactionLock, TransactionWait } from "../sessions/transaction-lock.ts";
import type { Hold, Wanted } from "../waiting/attempt.ts";
import { type Around, carry, isInTransactionOf, runAround } from "../waiting/reentrancy.ts";
import type { RegisteredLock } from "./lock-registry.ts";

/** The parts of a locker that `withTransaction` uses. */
export interface LockerOfTransactions {
  /** Checks the key and the options. @throws what is wrong with them */
  wanted(key: LockKey, options: AcquireOptions): Wanted;
  take<G extends { release(): Promise<unknown> }, H>(
    wanted: Wanted,
    store: LockStore<G>,
    hold: Hold<G, H>,
  ): Promise<H>;
  readonly telemetry: Telemetry;
  register(lock: RegisteredLock): void;
  freed(lock: RegisteredLock): void;
  /** The object that identifies the locker to functions that run under its locks. */
  readonly owner: object;
}

/** Runs functions in a transaction, under a lock that lasts until the transaction ends. */
export class LocksInTransactions {
  readonly #locker: LockerOfTransactions;
  readonly #own: OwnTransactions;
  readonly #recovery: RecoveryGrace | undefined;
  readonly #enforced: boolean;

  constructor(
    locker: LockerOfTransactions,
    parts: {
      pool: Pool;
      /** The longest wait for a connection of the pool, in milliseconds. */
      connWaitTimeout: number;
      ttlEnforcement: "client" | "server";
      recovery: RecoveryGrace | undefined;
    },
  ) {
    const { pool, connWaitTimeout, ttlEnforcement, recovery } = parts;
    this.#locker = locker;
    this.#own = new OwnTransactions({ pool, wait: connWaitTimeout, recovery });
    this.#recovery = recovery;
    this.#enforced = ttlEnforcement === "server";
  }

  /** Rolls back every transaction that the locker began itself. Never rejects. */
  close(): Promise<void> {
    return this.#own.close();
  }

  /** See `PostgresLocker.withTransaction`. */
  async run<T, C extends TransactionClient>(
    key: LockKey,
    fn: (client: C) => T | Promise<T>,
    options: TransactionOptions<C>,
  ): Promise<T> {
    assertFunction(fn);
    const { client, ...rest } = assertTransactionOptions(options);
    const locker = this.#locker;
    const wanted = { ...locker.wanted(key, rest), reentrant: undefined };
    const enforced = this.#enforced || rest.ttl !== undefined;
    const ttl = enforced ? assertEnforceableTtl(wanted.ttl) : undefined;
    const { lock, entry } = await this.#take(wanted, { client, ttl });
    let isHeld = true;
    const end = (how: () => Promise<void>): Promise<void> =>
      locker.telemetry.observe("release", wanted, undefined, async () => {
        try {
          await how();
        } finally {
          isHeld = false;
          locker.freed(entry);
        }
      });
    let value: T;
    try {
      await lock.keep();
      const by = "withTransaction";
      const around: Around = { owner: locker.owner, id: wanted.id, by, client, isHeld: () => isHeld };
      const running = runAround([around], () => fn(lock.client as C));
      value = await abandonOnAbort(running, [lock.lost]);
    } catch (error) {
      await end(() => lock.release()).catch((suppressed: unknown) => carry(error, suppressed));
      if (!lock.lost.aborted || lock.lost.reason === error) throw error;
      carry(lock.lost.reason, error);
      throw lock.lost.reason;
    }
    await end(() => lock.commit());
    return value;
  }

  async #take(
    wanted: Wanted,
    { client, ttl }: { client: TransactionClient | undefined; ttl: number | undefined },
  ): Promise<{ lock: TransactionLock; entry: RegisteredLock }> {
    const store =
      client === undefined
        ? new OwnTransactionStore(this.#own, ttl)
        : new CallersTransactionStore({ client, ttl, recovery: this.#recovery, own: this.#own });
    const hold = (lock: TransactionLock): { lock: TransactionLock; entry: RegisteredLock } => {
      const { key, id, mode } = wanted;
      // A transaction whose session has ended keeps nobody out any more.
      const entry = {
        key,
        id,
        mode,
        pid: announcedBackend(lock.client),
        get expired() {
          return !lock.isOpen;
        },
      };
      this.#locker.register(entry);
      return { lock, entry };
    };
    try {
      return await this.#locker.take({ ...wanted, alsoEndedBy: store.hopeless }, store, hold);
    } catch (error) {
      // The caller's next statement must not come in between.
      await store.settled();
      throw error;
    }
  }
}

interface TransactionStore extends LockStore<TransactionLock> {
  /** Ends the attempt because of an error that waiting can't help. */
  readonly hopeless: Stop;
  /** Resolves when nothing is under way on the caller's client any more, including what undoes an attempt. */
  settled(): Promise<void>;
}

/** Acquires locks in transactions that the locker begins itself. They have done nothing before, so only the first of a line needs a connection. */
class OwnTransactionStore implements TransactionStore {
  readonly bringsPlace = true;
  readonly hopeless = new Stop();
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

  async settled(): Promise<void> {}
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
        new LockNotAcquiredError({ key: request.key, reason: "held", ownHold: { by: "client" } }),
      );
    }
    return granted;
  }
}
