import type { TransactionClient } from "../contract/clients.ts";
import { hasMethods, notTransaction, transactionClient } from "./transaction-of.ts";

/** What is needed of Knex's `Transaction`, which is also Objection's. */
export interface KnexTransaction {
  isCompleted(): boolean;
  readonly client: unknown;
}

interface KnexClient {
  acquireConnection(): Promise<TransactionClient>;
}

/**
 * The `client` of `withTransaction` for a transaction of Knex or of Objection, whose own `commit` or `rollback` ends the lock.
 * With Knex's client `"pg"`.
 *
 * ```ts
 * await knex.transaction((trx) =>
 *   locker.withTransaction("invoice:42", () => trx("invoice").insert({ id: 42 }), { client: fromKnex(trx) }),
 * );
 * ```
 *
 * @throws {InvalidConfigError} `transaction` is not one, or has ended: `undefined`, or the Knex that makes them
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
    // That of the transaction, which it keeps. Past Knex's own hooks, which may rename the columns.
    run: async (text, values) => (await client.acquireConnection()).query(text, values),
  });
}
