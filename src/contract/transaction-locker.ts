import type { TransactionClient, TransactionOptions } from "./clients.ts";
import type { LockKey } from "./lock-key.ts";
import type { Locker } from "./locker.ts";

/**
 * A locker with `withTransaction`: what code is typed against that uses transactions. `PostgresLocker` is one, and so is `MemoryLocker`,
 * for tests.
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
   * Runs `fn` under the lock of `key` and in a transaction: what `fn` writes through `client` is kept if and only if the lock was held
   * all the while. If `fn` fails, all of it is rolled back, and the lock is given back.
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
}
