import type { TransactionClient } from "../contract/clients.ts";
import { hasMethods, notTransaction, transactionClient } from "./transaction-of.ts";

/** What is needed of Kysely's `Transaction`. */
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
 * The `client` of `withTransaction` for a transaction of Kysely, whose own `commit` or `rollback` ends the lock.
 *
 * ```ts
 * await db.transaction().execute((trx) =>
 *   locker.withTransaction("invoice:42", () => trx.insertInto("invoice").values({ id: 42 }).execute(), {
 *     client: fromKysely(trx),
 *   }),
 * );
 * ```
 *
 * @throws {InvalidConfigError} `transaction` is not one: `undefined`, or the Kysely that makes them
 */
export function fromKysely(transaction: KyselyTransaction): TransactionClient {
  if (!hasMethods(transaction, "executeQuery", "withoutPlugins") || !transaction.isTransaction) {
    throw notTransaction(
      transaction,
      "the transaction that Kysely's `db.transaction().execute(…)` hands to its function",
    );
  }
  // A plugin may rename the columns.
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
    // Kysely keeps that to itself, but hands out no connection after the end.
    hadEnded: () =>
      Promise.resolve(transaction.getExecutor())
        .then((executor) => executor.provideConnection(async () => {}))
        .then(
          () => false,
          () => true,
        ),
  });
}
