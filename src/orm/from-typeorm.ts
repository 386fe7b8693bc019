import type { TransactionClient } from "../contract/clients.ts";
import { hasMethods, notTransaction, transactionClient } from "./transaction-of.ts";

/** What the locker needs of TypeORM's `QueryRunner`. */
export interface TypeOrmQueryRunner {
  readonly isTransactionActive: boolean;
  connect(): Promise<unknown>;
}

/** What the locker needs of TypeORM's `EntityManager`. */
export interface TypeOrmEntityManager {
  readonly queryRunner?: TypeOrmQueryRunner | undefined;
}

/**
 * Makes the `client` of `withTransaction` from a TypeORM transaction: the `EntityManager` that `dataSource.transaction(…)` passes to its
 * function, or a `QueryRunner` after `startTransaction()`. The lock lasts until that transaction ends.
 *
 * ```ts
 * await dataSource.transaction((manager) =>
 *   locker.withTransaction("invoice:42", () => manager.insert(Invoice, { id: 42 }), { client: fromTypeORM(manager) }),
 * );
 * ```
 *
 * @throws {InvalidConfigError} `transaction` is `undefined`, is `dataSource.manager`, or has no open transaction
 */
export function fromTypeORM(transaction: TypeOrmEntityManager | TypeOrmQueryRunner): TransactionClient {
  const runner = runnerOf(transaction);
  if (runner?.isTransactionActive !== true) {
    throw notTransaction(
      transaction,
      "the entity manager that TypeORM's `dataSource.transaction(…)` hands to its function, or a query runner that has a transaction begun",
    );
  }
  return transactionClient(runner, {
    isOpen: () => runner.isTransactionActive,
    run: async (text, values) => ((await runner.connect()) as TransactionClient).query(text, values),
  });
}

function runnerOf(transaction: TypeOrmEntityManager | TypeOrmQueryRunner): TypeOrmQueryRunner | undefined {
  const runner = (transaction as TypeOrmEntityManager | undefined)?.queryRunner ?? transaction;
  return hasMethods(runner, "connect") && "isTransactionActive" in runner ? runner : undefined;
}
