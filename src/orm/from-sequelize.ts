import type { TransactionClient } from "../contract/clients.ts";
import { hasMethods, notTransaction, transactionClient } from "./transaction-of.ts";

/** What is needed of Sequelize's `Transaction`. */
export interface SequelizeTransaction {
  afterCommit(hook: never): void;
}

/** What its types leave out. */
interface StartedTransaction {
  readonly connection?: TransactionClient;
  /** `"commit"` or `"rollback"`, once it has ended. */
  readonly finished?: string;
  readonly parent?: StartedTransaction;
}

/**
 * The `client` of `withTransaction` for a transaction of Sequelize 6, whose own `commit` or `rollback` ends the lock.
 *
 * ```ts
 * await sequelize.transaction((transaction) =>
 *   locker.withTransaction("invoice:42", () => Invoice.create({ id: 42 }, { transaction }), {
 *     client: fromSequelize(transaction),
 *   }),
 * );
 * ```
 *
 * @throws {InvalidConfigError} `transaction` is not one, or has ended: `undefined`, or the Sequelize that makes them
 */
export function fromSequelize(transaction: SequelizeTransaction): TransactionClient {
  const started = transaction as unknown as StartedTransaction | undefined;
  const connection = started?.connection;
  if (!hasMethods(transaction, "afterCommit") || !hasMethods(connection, "query")) {
    throw notTransaction(
      transaction,
      "the transaction that Sequelize's `sequelize.transaction(…)` hands to its function",
    );
  }
  return transactionClient(transaction, {
    isOpen: () => isOpen(started),
    run: (text, values) => connection.query(text, values),
  });
}

/** A nested one, which is a savepoint, ends with the one around it at the latest. */
function isOpen(transaction: StartedTransaction | undefined): boolean {
  return transaction === undefined || (transaction.finished === undefined && isOpen(transaction.parent));
}
