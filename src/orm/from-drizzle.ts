import type { TransactionClient } from "../contract/clients.ts";
import { hasMethods, notTransaction, transactionClient } from "./transaction-of.ts";

/** What the locker needs of Drizzle's `PgTransaction`, with any driver. */
export interface DrizzleTransaction {
  execute(query: never): PromiseLike<unknown>;
  setTransaction(config: never): Promise<unknown>;
}

/**
 * Makes the `client` of `withTransaction` from a Drizzle transaction. The lock lasts until that transaction ends.
 *
 * ```ts
 * await db.transaction((tx) =>
 *   locker.withTransaction("invoice:42", () => tx.insert(invoice).values({ id: 42 }), { client: fromDrizzle(tx) }),
 * );
 * ```
 *
 * Drizzle doesn't say whether a transaction has ended; `withTransaction` finds that out by itself.
 *
 * @throws {InvalidConfigError} `transaction` is not a transaction, but `undefined` or the database itself
 */
export function fromDrizzle(transaction: DrizzleTransaction): TransactionClient {
  if (!hasMethods(transaction, "execute", "setTransaction")) {
    throw notTransaction(
      transaction,
      "the transaction that Drizzle's `db.transaction(…)` hands to its function",
    );
  }
  const { execute } = transaction as unknown as { execute(query: object): PromiseLike<unknown> };
  return transactionClient(transaction, {
    run: (sql, params) => execute.call(transaction, written(sql, params)),
  });
}

/** Wraps SQL text in the kind of object that Drizzle accepts as a query. */
function written(sql: string, params: unknown[]): object {
  const query = { toQuery: () => ({ sql, params }), getSQL: () => query };
  return query;
}
