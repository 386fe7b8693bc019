import type { TransactionClient } from "../contract/clients.ts";
import { hasMethods, notTransaction, transactionClient } from "./transaction-of.ts";

/** What is needed of Drizzle's `PgTransaction`, whichever its driver. */
export interface DrizzleTransaction {
  execute(query: never): PromiseLike<unknown>;
  setTransaction(config: never): Promise<unknown>;
}

/**
 * The `client` of `withTransaction` for a transaction of Drizzle, whose own end is that of the lock.
 *
 * ```ts
 * await db.transaction((tx) =>
 *   locker.withTransaction("invoice:42", () => tx.insert(invoice).values({ id: 42 }), { client: fromDrizzle(tx) }),
 * );
 * ```
 *
 * Drizzle doesn't tell that a transaction has ended: `withTransaction` finds that out by itself.
 *
 * @throws {InvalidConfigError} `transaction` is not one: `undefined`, or the database that makes them
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

/** A statement as Drizzle takes one: an object that can be turned into SQL, here one that is SQL already. */
function written(sql: string, params: unknown[]): object {
  const query = { toQuery: () => ({ sql, params }), getSQL: () => query };
  return query;
}
