import type { TransactionClient } from "../contract/clients.ts";
import { InvalidConfigError } from "../contract/errors.ts";

/** How an ORM's transaction is asked. */
export interface TransactionOf {
  /** Runs a statement in the transaction. Its parameters are `$1`, `$2`, …; it resolves with the rows, by column name. */
  run(text: string, values: unknown[]): PromiseLike<unknown>;
  /** Whether a statement would still be part of the transaction. Asked before each one. */
  isOpen?(): boolean;
  /** Whether a statement failed because the transaction had ended. Default: it is not open any more, as {@link isOpen} says. */
  hadEnded?(error: unknown): boolean | Promise<boolean>;
}

/** One for each transaction: what is asked on it at once waits its turn by it. */
const clients = new WeakMap<object, TransactionClient>();

/**
 * The client for `withTransaction` over an ORM's transaction: always the same one for the same `transaction`.
 *
 * Its `query` rejects with an `InvalidConfigError` after the end of the transaction, if the ORM can tell; otherwise with the
 * driver's own error, which the ORM may have wrapped.
 */
export function transactionClient(transaction: object, how: TransactionOf): TransactionClient {
  const known = clients.get(transaction);
  if (known !== undefined) return known;
  const client: TransactionClient = {
    async query(text, values = []) {
      if (how.isOpen?.() === false) throw ended();
      try {
        return { rows: rowsOf(await how.run(text, values)) };
      } catch (error) {
        const hadEnded = how.hadEnded === undefined ? how.isOpen?.() === false : await how.hadEnded(error);
        if (hadEnded) throw ended();
        throw driversOwn(error);
      }
    },
  };
  clients.set(transaction, client);
  return client;
}

/** The error for what is no transaction. `wants` says where the right object comes from. */
export function notTransaction(got: unknown, wants: string): InvalidConfigError {
  return new InvalidConfigError({ field: "transaction", got, wants });
}

function ended(): InvalidConfigError {
  return new InvalidConfigError({
    field: "transaction",
    got: {},
    wants: "one that stays open while `withTransaction` runs (it has been committed or rolled back)",
  });
}

/** Whether all of `methods` are there to be called. */
export function hasMethods(value: unknown, ...methods: string[]): value is object {
  if ((typeof value !== "object" && typeof value !== "function") || value === null) return false;
  return methods.every((name) => typeof (value as Record<string, unknown>)[name] === "function");
}

/** node-postgres returns the rows in an object, postgres.js and Prisma return them as they are. */
function rowsOf(result: unknown): Record<string, unknown>[] {
  const rows = Array.isArray(result) ? result : (result as { rows: unknown[] }).rows;
  return rows as Record<string, unknown>[];
}

/** The SQLSTATE is that of the innermost error: Drizzle wraps the driver's own as `cause`. */
function driversOwn(error: unknown): unknown {
  let innermost = error;
  while (innermost instanceof Error && innermost.cause instanceof Error) innermost = innermost.cause;
  return innermost;
}
