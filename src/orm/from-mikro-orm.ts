import type { TransactionClient } from "../contract/clients.ts";
import { fromKysely, type KyselyTransaction } from "./from-kysely.ts";
import { hasMethods, notTransaction } from "./transaction-of.ts";

/** What the locker needs of MikroORM's `EntityManager`. */
export interface MikroOrmEntityManager {
  getTransactionContext(): unknown;
}

/**
 * Makes the `client` of `withTransaction` from a MikroORM 7 transaction. The lock lasts until that transaction ends. MikroORM writes
 * what the function persists when it flushes, which is before its commit and so under the lock.
 *
 * ```ts
 * await em.transactional((em) =>
 *   locker.withTransaction("invoice:42", () => void em.persist(new Invoice(42)), { client: fromMikroOrm(em) }),
 * );
 * ```
 *
 * @throws {InvalidConfigError} `transaction` is `undefined`, or an entity manager without an open transaction
 */
export function fromMikroOrm(transaction: MikroOrmEntityManager): TransactionClient {
  const context = hasMethods(transaction, "getTransactionContext")
    ? transaction.getTransactionContext()
    : undefined;
  if (!hasMethods(context, "executeQuery", "withoutPlugins")) {
    throw notTransaction(
      transaction,
      "the entity manager that MikroORM 7's `em.transactional(…)` hands to its function",
    );
  }
  // MikroORM 7 is built on Kysely, so the context is a Kysely transaction.
  return fromKysely(context as KyselyTransaction);
}
