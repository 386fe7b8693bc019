import { hasCode } from "../contract/caught-error.ts";
import type { TransactionClient } from "../contract/clients.ts";
import { hasMethods, notTransaction, transactionClient } from "./transaction-of.ts";

/** What the locker needs of Prisma's `TransactionClient`. */
export interface PrismaTransaction {
  // biome-ignore lint/suspicious/noExplicitAny: this is Prisma's signature
  $queryRawUnsafe(query: string, ...values: any[]): PromiseLike<unknown>;
  /** Absent from a transaction: only the `PrismaClient` itself has it. */
  readonly $connect?: undefined;
}

/**
 * Makes the `client` of `withTransaction` from an interactive Prisma transaction. The lock lasts until that transaction ends. Prisma
 * ends a transaction, and so the lock, after its `timeout`, 5 s by default: raise it if the call waits for the lock.
 *
 * ```ts
 * await prisma.$transaction((tx) =>
 *   locker.withTransaction("invoice:42", () => tx.invoice.create({ data: { id: 42 } }), { client: fromPrisma(tx) }),
 * );
 * ```
 *
 * @throws {InvalidConfigError} `transaction` is not a transaction, but `undefined` or the `PrismaClient` itself
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
    // P2028: a transaction API error (https://www.prisma.io/docs/orm/reference/error-reference#p2028).
    hadEnded: (error) => hasCode(error, "P2028"),
    driversOwn,
  });
}

/** Prisma gives its own code to whatever fails in a query, and keeps the server's answer inside its driver adapter's error. */
function driversOwn(error: unknown): unknown {
  const { meta } = error as { meta?: { driverAdapterError?: { cause?: Record<string, unknown> } } };
  const { originalCode, originalMessage } = meta?.driverAdapterError?.cause ?? {};
  if (typeof originalCode !== "string") return error;
  return Object.assign(new Error(String(originalMessage), { cause: error }), { code: originalCode });
}
