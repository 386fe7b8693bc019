import type { TransactionClient } from "../contract/clients.ts";
import { hasMethods, notTransaction, transactionClient } from "./transaction-of.ts";

/** What the locker needs of postgres.js's `TransactionSql`. */
export interface PostgresJsTransaction {
  unsafe(query: string, parameters?: never): PromiseLike<readonly unknown[]>;
  savepoint(run: never): Promise<unknown>;
}

/**
 * Makes the `client` of `withTransaction` from a postgres.js transaction. The lock lasts until that transaction ends.
 *
 * ```ts
 * await sql.begin((tx) =>
 *   locker.withTransaction("invoice:42", () => tx`insert into invoice values (42)`, { client: fromPostgresJs(tx) }),
 * );
 * ```
 *
 * postgres.js doesn't say whether a transaction has ended; `withTransaction` finds that out by itself.
 *
 * @throws {InvalidConfigError} `transaction` is not a transaction, but `undefined` or the `sql` outside of one
 */
export function fromPostgresJs(transaction: PostgresJsTransaction): TransactionClient {
  if (!hasMethods(transaction, "unsafe", "savepoint")) {
    throw notTransaction(transaction, "the `sql` that postgres.js's `sql.begin(…)` hands to its function");
  }
  const sql = transaction as unknown as {
    unsafe(query: string, parameters: unknown[]): PromiseLike<readonly unknown[]>;
  };
  return transactionClient(transaction, { run: (text, values) => sql.unsafe(text, values) });
}
