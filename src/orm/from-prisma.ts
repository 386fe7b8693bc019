import { hasCode } from "../contract/caught-error.ts";
import type { TransactionClient } from "../contract/clients.ts";
import { hasMethods, notTransaction, transactionClient } from "./transaction-of.ts";

/** What is needed of Prisma's `TransactionClient`. */
export interface PrismaTransaction {
  // biome-ignore lint/suspicious/noExplicitAny: Prisma's own.
  $queryRawUnsafe(query: string, ...values: any[]): PromiseLike<unknown>;
  /** Only the client that makes transactions has it. */
  readonly $connect?: undefined;
}

/**
 * The `client` of `withTransaction` for an interactive transaction of Prisma, whose own end is that of the lock. Prisma ends one
 * after its `timeout`, 5 s by default, and the lock with it: raise it if the call waits for the lock.
 *
 * ```ts
 * await prisma.$transaction((tx) =>
 *   locker.withTransaction("invoice:42", () => tx.invoice.create({ data: { id: 42 } }), { client: fromPrisma(tx) }),
 * );
 * ```
 *
 * @throws {InvalidConfigError} `transaction` is not one: `undefined`, or the `PrismaClient` itself
 */
export function fromPrisma(transaction: PrismaTransaction): TransactionClient {
  if (!hasMethods(transaction, "$queryRawUnsafe") || transaction.$connect !== undefined) {
    throw notTransaction(
      transaction,
      "the transaction that Prisma's `prisma.$transaction(async (tx) => …)` hands to its function",
    );
  }
  return transactionClient(transaction, {
    run: (text, values) => transaction.$queryRawUnsafe(text, ...values),
    // https://www.prisma.io/docs/orm/reference/error-reference#p2028
    hadEnded: (error) => hasCode(error, "P2028"),
  });
}
