import { assertFunction, assertTransactionOptions } from "../contract/acquire-options.ts";
import type { TransactionClient, TransactionOptions } from "../contract/clients.ts";
import type { LockKey } from "../contract/lock-key.ts";
import type { AcquireOptions } from "../contract/locker.ts";
import { announcedBackend } from "../postgres/driver.ts";
import { aliveUntil } from "../runtime/process-life.ts";
import { abandonOnAbort, type StopSignal } from "../runtime/stop-signal.ts";
import type { Telemetry } from "../runtime/telemetry.ts";
import type { LockStore } from "../sessions/grant.ts";
import { assertEnforceableTtl } from "../sessions/server-ttl.ts";
import type { Hold, Wanted } from "../waiting/attempt.ts";
import { type Around, carry, runAround } from "../waiting/reentrancy.ts";
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

/** A lock that lasts until the end of a transaction. */
export interface LockOfTransaction {
  readonly client: TransactionClient;
  /** Aborts when the lock has ended before the function has. */
  readonly lost: StopSignal;
  /** Whether the transaction is open, as far as the locker knows. */
  readonly isOpen: boolean;
  /** Keeps the lock until the function has ended. Called once, before the function begins. */
  keep(): Promise<void>;
  /** Commits what the function wrote; in a caller's transaction, leaves that to the caller. @throws if the lock was not held until now */
  commit(): Promise<void>;
  /** Rolls the transaction back; a caller's transaction is left to the caller. */
  release(): Promise<void>;
}

/** Where the lock of one call lives. */
export interface TransactionStore extends LockStore<LockOfTransaction> {
  /** Ends the attempt because of an error that waiting can't help. Absent if there is no such error. */
  readonly hopeless?: StopSignal;
  /** Resolves when nothing is under way on the caller's client any more, including what undoes an attempt. */
  settled?(): Promise<void>;
}

/** What a call asks for. */
export interface TransactionWanted {
  /** The client on which the caller has begun a transaction. `undefined`: the transaction is the locker's own. */
  readonly client: TransactionClient | undefined;
  /** Milliseconds that the transaction may be idle before the server ends it. `undefined`: no limit. */
  readonly ttl: number | undefined;
}

/** Where the locks of all calls live. */
export interface TransactionStores {
  storeFor(wanted: TransactionWanted): TransactionStore;
  /** Ends every transaction that the locker began itself; nothing of it is committed. Never rejects. */
  close(): Promise<void>;
}

/** Runs functions in a transaction, under a lock that lasts until the transaction ends. */
export class LocksInTransactions {
  readonly #locker: LockerOfTransactions;
  readonly #stores: TransactionStores;
  readonly #enforced: boolean;

  constructor(
    locker: LockerOfTransactions,
    { stores, ttlEnforcement }: { stores: TransactionStores; ttlEnforcement: "client" | "server" },
  ) {
    this.#locker = locker;
    this.#stores = stores;
    this.#enforced = ttlEnforcement === "server";
  }

  /** See {@link TransactionStores.close}. */
  close(): Promise<void> {
    return this.#stores.close();
  }

  /** See `TransactionLocker.withTransaction`. */
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
      const { id, mode } = wanted;
      const around: Around = { owner: locker.owner, id, mode, by, client, isHeld: () => isHeld };
      const running = runAround([around], () => fn(lock.client as C));
      value = await aliveUntil(abandonOnAbort(running, [lock.lost]));
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
    asked: TransactionWanted,
  ): Promise<{ lock: LockOfTransaction; entry: RegisteredLock }> {
    const store = this.#stores.storeFor(asked);
    const hold = (lock: LockOfTransaction): { lock: LockOfTransaction; entry: RegisteredLock } => {
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
        get isGone() {
          return !lock.isOpen;
        },
      };
      this.#locker.register(entry);
      return { lock, entry };
    };
    try {
      return await this.#locker.take({ ...wanted, alsoEndedBy: store.hopeless, isSilent: true }, store, hold);
    } catch (error) {
      // The caller's next statement must not come in between.
      await store.settled?.();
      throw error;
    }
  }
}
