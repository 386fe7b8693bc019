import type { TransactionClient } from "../contract/clients.ts";
import { hasMethods, notTransaction, transactionClient } from "./transaction-of.ts";

/** What the locker needs of Kysely's `Transaction`. */
export interface KyselyTransaction {
  readonly isTransaction: true;
  executeQuery(query: never): Promise<{ readonly rows: unknown[] }>;
  getExecutor(): { provideConnection(consumer: () => Promise<void>): Promise<void> };
  withoutPlugins(): KyselyTransaction;
}

interface CompiledQuery {
  readonly sql: string;
  readonly parameters: readonly unknown[];
  readonly query: object;
  readonly queryId: object;
}

/**
 * Makes the `client` of `withTransaction` from a Kysely transaction. The lock lasts until its `commit` or `rollback`.
 *
 * ```ts
 * await db.transaction().execute((trx) =>
 *   locker.withTransaction("invoice:42", () => trx.insertInto("invoice").values({ id: 42 }).execute(), {
 *     client: fromKysely(trx),
 *   }),
 * );
 * ```
 *
 * @throws {InvalidConfigError} `transaction` is not a transaction, but `undefined` or the Kysely instance itself
 */
export function fromKysely(transaction: KyselyTransaction): TransactionClient {
  if (!hasMethods(transaction, "executeQuery", "withoutPlugins") || !transaction.isTransaction) {
    throw notTransaction(
      transaction,
      "the transaction that Kysely's `db.transaction().execute(…)` hands to its function",
    );
  }
  // Without plugins, because a plugin may rename columns.
  const plain = transaction.withoutPlugins() as unknown as {
    executeQuery(query: CompiledQuery): Promise<{ rows: unknown[] }>;
  };
  return transactionClient(transaction, {
    run: (sql, parameters) =>
      plain.executeQuery({
        sql,
        parameters,
        query: { kind: "RawNode", sqlFragments: [sql], parameters: [] },
        queryId: { queryId: "pg-locker" },
      }),
    // Kysely doesn't say whether the transaction has ended, but gives out no connection after its end.
    hadEnded: () =>
      Promise.resolve(transaction.getExecutor())
        .then((executor) => executor.provideConnection(async () => {}))
        .then(
          () => false,
          () => true,
        ),
  });
}
