import type { TransactionClient } from "../contract/clients.ts";
import { hasMethods, notTransaction, transactionClient } from "./transaction-of.ts";

/** What the locker needs of Sequelize's `Transaction`. */
export interface SequelizeTransaction {
  afterCommit(hook: never): void;
}

/** Members of Sequelize's `Transaction` that its types leave out. */
interface StartedTransaction {
  readonly connection?: TransactionClient;
  /** `"commit"` or `"rollback"` once the transaction has ended. */
  readonly finished?: string;
  readonly parent?: StartedTransaction;
}

/**
 * Makes the `client` of `withTransaction` from a Sequelize 6 transaction. The lock lasts until its `commit` or `rollback`.
 *
 * ```ts
 * await sequelize.transaction((transaction) =>
 *   locker.withTransaction("invoice:42", () => Invoice.create({ id: 42 }, { transaction }), {
 *     client: fromSequelize(transaction),
 *   }),
 * );
 * ```
 *
 * @throws {InvalidConfigError} `transaction` has ended, or is not a transaction, but `undefined` or the Sequelize instance itself
 */
export function fromSequelize(transaction: SequelizeTransaction): TransactionClient {
  const started = transaction as unknown as StartedTransaction | undefined;
  const connection = started?.connection;
  if (!hasMethods(transaction, "afterCommit") || !hasMethods(connection, "query")) {
    throw notTransaction(
      transaction,
      "the transaction that Sequelize 6's `sequelize.transaction(…)` hands to its function",
    );
  }
  return transactionClient(transaction, {
    isOpen: () => isOpen(started),
    run: (text, values) => connection.query(text, values),
  });
}

/** Whether a transaction and all those around it are open: a nested one is a savepoint, which ends with the outer one. */
function isOpen(transaction: StartedTransaction | undefined): boolean {
  return transaction === undefined || (transaction.finished === undefined && isOpen(transaction.parent));
}
