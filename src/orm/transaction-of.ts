import { isError } from "../contract/caught-error.ts";
import type { TransactionClient } from "../contract/clients.ts";
import { InvalidConfigError } from "../contract/errors.ts";

/** How to use an ORM's transaction. */
export interface TransactionOf {
  /** Runs a statement in the transaction. The parameters are `$1`, `$2` and so on; resolves with the rows, by column name. */
  run(text: string, values: unknown[]): PromiseLike<unknown>;
  /** Whether the transaction is still open. Called before each statement. */
  isOpen?(): boolean;
  /** Whether a statement failed because the transaction had ended. Without it, {@link isOpen} decides. */
  hadEnded?(error: unknown): boolean | Promise<boolean>;
  /** The driver's own error, with the SQLSTATE as its `code`, in an error of the ORM. Without it, that is the innermost `cause`. */
  driversOwn?(error: unknown): unknown;
}

/** One client for each transaction, so that simultaneous calls on a transaction queue on the same client. */
const clients = new WeakMap<object, TransactionClient>();

/**
 * Makes the client for `withTransaction` from an ORM's transaction. Returns the same client each time for the same `transaction`.
 *
 * After the end of the transaction, its `query` rejects with an `InvalidConfigError` if the ORM can tell that it has ended; otherwise with
 * the driver's own error, which the ORM may have wrapped.
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
        if (hadEnded) throw ended(error);
        throw (how.driversOwn ?? innermostCause)(error);
      }
    },
  };
  clients.set(transaction, client);
  return client;
}

/** The error for a value that is not a transaction. `wants` says where the right object comes from. */
export function notTransaction(got: unknown, wants: string): InvalidConfigError {
  return new InvalidConfigError({ field: "transaction", got, wants });
}

/** `cause`: what the ORM says about it, such as that its own time-out has ended the transaction. */
function ended(cause?: unknown): InvalidConfigError {
  return new InvalidConfigError({
    field: "transaction",
    wants: "one that stays open while `withTransaction` runs, but it has been committed or rolled back",
    cause,
  });
}

/** Whether a value has all of these methods. */
export function hasMethods(value: unknown, ...methods: string[]): value is object {
  if ((typeof value !== "object" && typeof value !== "function") || value === null) return false;
  return methods.every((name) => typeof (value as Record<string, unknown>)[name] === "function");
}

/**
 * The rows of a result: node-postgres returns them in an object, postgres.js and Prisma return an array. If the text was of several
 * statements, the drivers return an array of results, of which the last counts.
 */
function rowsOf(result: unknown): Record<string, unknown>[] {
  if (!Array.isArray(result)) return (result as { rows: Record<string, unknown>[] }).rows;
  const last: unknown = result.at(-1);
  return Array.isArray(last) || isResult(last) ? rowsOf(last) : result;
}

/** Whether a value is a result of node-postgres, not a row. */
function isResult(value: unknown): boolean {
  return (
    typeof value === "object" && value !== null && "rows" in value && "fields" in value && "command" in value
  );
}

/** The innermost error, which has the SQLSTATE: Drizzle wraps the driver's error as `cause`. */
function innermostCause(error: unknown): unknown {
  const seen = new Set<unknown>();
  let innermost = error;
  while (isError(innermost) && isError(innermost.cause) && !seen.has(innermost)) {
    seen.add(innermost);
    innermost = innermost.cause;
  }
  return innermost;
}
