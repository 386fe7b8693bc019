import type { TransactionClient, TransactionOptions } from "./clients.ts";
import type { LockKey } from "./lock-key.ts";
import type { Locker } from "./locker.ts";
import type { NamespacedLocker } from "./namespaced-locker.ts";

/**
 * A locker with `withTransaction`: the type for code that takes any locker and uses transactions. `PostgresLocker` implements it, and so
 * does `MemoryLocker`, for tests.
 *
 * @example
 * class Invoices {
 *   constructor(private readonly locker: TransactionLocker) {}
 *   pay(id: string): Promise<void> {
 *     return this.locker.withTransaction(`invoice:${id}`, async (client) => {
 *       await client.query("update invoice set paid = true where id = $1", [id]);
 *     });
 *   }
 * }
 */
export interface TransactionLocker extends Locker {
  /**
   * Runs `fn` in a transaction, under the lock of `key`. What `fn` writes through `client` is committed if and only if the lock was held
   * throughout. If `fn` throws, the transaction is rolled back and the lock released. `fn` must await its statements: one that is sent
   * after it has returned runs outside the transaction.
   *
   * @throws what {@link Locker.acquire} throws; then `fn` has not run
   * @throws what `fn` throws
   * @throws {DatabaseError} the commit failed
   */
  withTransaction<T, C extends TransactionClient = TransactionClient>(
    key: LockKey,
    fn: (client: C) => T | Promise<T>,
    options?: TransactionOptions<C>,
  ): Promise<T>;

  /** As with every {@link Locker}; what it returns has `withTransaction`, too. */
  namespace(name: string): NamespacedTransactionLocker;
}

/** A locker with `withTransaction` whose keys have a prefix. It has no `close()`: the locker itself is closed. */
export interface NamespacedTransactionLocker
  extends NamespacedLocker,
    Pick<TransactionLocker, "withTransaction"> {
  namespace(name: string): NamespacedTransactionLocker;
}
