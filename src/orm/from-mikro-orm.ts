import type { TransactionClient } from "../contract/clients.ts";
import { fromKysely, type KyselyTransaction } from "./from-kysely.ts";
import { hasMethods, notTransaction } from "./transaction-of.ts";

/** What is needed of MikroORM's `EntityManager`. */
export interface MikroOrmEntityManager {
  getTransactionContext(): unknown;
}

/**
 * The `client` of `withTransaction` for a transaction of MikroORM 7, whose own end is that of the lock. What is persisted in
 * the function is written when MikroORM flushes, which is before its commit and so under the lock.
 *
 * ```ts
 * await em.transactional((em) =>
 *   locker.withTransaction("invoice:42", () => void em.persist(new Invoice(42)), { client: fromMikroOrm(em) }),
 * );
 * ```
 *
 * @throws {InvalidConfigError} `transaction` has none begun: `undefined`, or an entity manager outside of `transactional`
 */
export function fromMikroOrm(transaction: MikroOrmEntityManager): TransactionClient {
  const context = hasMethods(transaction, "getTransactionContext")
    ? transaction.getTransactionContext()
    : undefined;
  if (!hasMethods(context, "executeQuery", "withoutPlugins")) {
    throw notTransaction(
      transaction,
      "the entity manager that MikroORM's `em.transactional(…)` hands to its function",
    );
  }
  // MikroORM is built on Kysely.
  return fromKysely(context as KyselyTransaction);
}
