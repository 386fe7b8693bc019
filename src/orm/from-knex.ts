import type { TransactionClient } from "../contract/clients.ts";
import { hasMethods, notTransaction, transactionClient } from "./transaction-of.ts";

/** What the locker needs of Knex's `Transaction`, which Objection uses too. */
export interface KnexTransaction {
  isCompleted(): boolean;
  readonly client: unknown;
}

interface KnexClient {
  acquireConnection(): Promise<TransactionClient>;
}

/**
 * Makes the `client` of `withTransaction` from a transaction of Knex or Objection. The lock lasts until its `commit` or `rollback`. It
 * needs Knex's client `"pg"`.
 *
 * ```ts
 * await knex.transaction((trx) =>
 *   locker.withTransaction("invoice:42", () => trx("invoice").insert({ id: 42 }), { client: fromKnex(trx) }),
 * );
 * ```
 *
 * @throws {InvalidConfigError} `transaction` has ended, or is not a transaction, but `undefined` or the Knex instance itself
 */
export function fromKnex(transaction: KnexTransaction): TransactionClient {
  if (!hasMethods(transaction, "isCompleted") || !hasMethods(transaction.client, "acquireConnection")) {
    throw notTransaction(
      transaction,
      "the transaction that Knex's `knex.transaction(…)` hands to its function",
    );
  }
  const client = transaction.client as unknown as KnexClient;
  return transactionClient(transaction, {
    isOpen: () => !transaction.isCompleted(),
    // The transaction always returns its own connection. A query on it bypasses Knex's hooks, which may rename columns.
    run: async (text, values) => (await client.acquireConnection()).query(text, values),
  });
}
