import type { TransactionClient } from "../contract/clients.ts";
import { InvalidConfigError, LockerClosedError } from "../contract/errors.ts";
import { begin, commit, rollback } from "../postgres/sql-transaction.ts";
import { Stop } from "../runtime/stop-signal.ts";
import { type Grant, type LockRequest, type Refusal, tell } from "../sessions/grant.ts";
import type { MemoryStore } from "../sessions/memory-store.ts";
import { carry } from "../waiting/reentrancy.ts";
import type {
  LockOfTransaction,
  TransactionStore,
  TransactionStores,
  TransactionWanted,
} from "./locks-in-transactions.ts";

/** The option `transaction` of a `MemoryLocker`. */
type MakeClient = () => TransactionClient | Promise<TransactionClient>;

/** Where the locks of `withTransaction` live with a `MemoryLocker`: among its other locks. */
export class MemoryTransactions implements TransactionStores {
  readonly #store: MemoryStore;
  readonly #make: MakeClient | undefined;
  readonly #open = new Set<MemoryTransaction>();

  constructor(store: MemoryStore, make: MakeClient | undefined) {
    this.#store = store;
    this.#make = make;
  }

  storeFor({ client }: TransactionWanted): TransactionStore {
    const { hasNoOrder } = this.#store;
    return { hasNoOrder, tryLock: (request, listener) => tell(listener, this.#take(request, client)) };
  }

  async close(): Promise<void> {
    await Promise.all([...this.#open].map((transaction) => transaction.close()));
  }

  async #take(
    { wanted: { id, mode, fencing } }: LockRequest,
    client: TransactionClient | undefined,
  ): Promise<MemoryTransaction | Refusal> {
    // No server ends an idle transaction.
    const answer = await this.#store.take({ id, mode, fencing, ttl: Number.POSITIVE_INFINITY });
    if ("refused" in answer) return answer;
    const lock = new MemoryTransaction(answer, client ?? this.#make, () => this.#open.delete(lock));
    this.#open.add(lock);
    return lock;
  }
}

//   open ──commit(), release()──▶ ending: committed, or rolled back ──▶ free
//    └──close()──▶ closed ──commit(), release()──▶ ending: rolled back ──▶ free
type State =
  | { readonly is: "open" }
  | { readonly is: "closed" }
  | { readonly is: "ending"; readonly ended: Promise<void> };

/**
 * A lock and the transaction that it lasts for. With a caller's client, whose end the locker isn't told of, it lasts until the function
 * has ended, and close() doesn't end it.
 */
class MemoryTransaction implements LockOfTransaction {
  client: TransactionClient = withoutTransaction;
  readonly lost = new Stop();
  readonly isOpen = true;
  readonly #grant: Grant;
  readonly #make: MakeClient | undefined;
  readonly #isOwn: boolean;
  readonly #ended: () => void;
  #state: State = { is: "open" };
  /** The client, if a transaction has been begun on it. */
  #begun: TransactionClient | undefined;

  /** `of`: the caller's client, or what makes one. `ended` is called when the transaction is over. */
  constructor(grant: Grant, of: TransactionClient | MakeClient | undefined, ended: () => void) {
    this.#grant = grant;
    this.#isOwn = of === undefined || typeof of === "function";
    this.#make = typeof of === "function" ? of : undefined;
    if (of !== undefined && typeof of !== "function") this.client = of;
    this.#ended = ended;
  }

  async keep(): Promise<void> {
    if (this.#make === undefined) return;
    this.client = await this.#make();
    await this.client.query(begin.text);
    this.#begun = this.client;
  }

  commit(): Promise<void> {
    const { is } = this.#state;
    return this.#end(async () => {
      if (is === "closed") await this.#refuse();
      else await this.#begun?.query(commit.text);
    });
  }

  release(): Promise<void> {
    return this.#end(() => this.#rollBack());
  }

  /**
   * Makes sure that the locker's own transaction is rolled back once its function has ended. It isn't rolled back at once, because the rest
   * of what the function writes would then be outside any transaction. Waits for a commit or rollback that is under way.
   */
  async close(): Promise<void> {
    if (this.#state.is === "ending") await this.#state.ended.catch(() => {});
    else if (this.#isOwn) this.#state = { is: "closed" };
  }

  async #refuse(): Promise<never> {
    const error = new LockerClosedError();
    await this.#rollBack().catch((suppressed: unknown) => carry(error, suppressed));
    throw error;
  }

  async #rollBack(): Promise<void> {
    await this.#begun?.query(rollback.text);
  }

  #end(how: () => Promise<void>): Promise<void> {
    const ended = this.#endAndFree(how);
    this.#state = { is: "ending", ended };
    return ended;
  }

  async #endAndFree(how: () => Promise<void>): Promise<void> {
    try {
      await how();
    } finally {
      this.#ended();
      await this.#grant.release();
    }
  }
}

/** The client if the option `transaction` is absent. A function that doesn't use its client still works. */
const withoutTransaction: TransactionClient = {
  query: async () => {
    const wants = "given to MemoryLocker, if a transaction is to have a client";
    throw new InvalidConfigError({ field: "transaction", got: undefined, wants });
  },
};
