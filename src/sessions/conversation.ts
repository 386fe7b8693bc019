import type { TransactionClient } from "../contract/clients.ts";
import { DatabaseError, InvalidConfigError, namedLockError } from "../contract/errors.ts";
import { cancelStatement, isCancellable, isUnderWay } from "../postgres/cancel.ts";
import type { Client, Statement } from "../postgres/driver.ts";
import { statementDeadline } from "../postgres/session.ts";
import {
  noTransaction,
  releaseSavepoint,
  rollbackToSavepoint,
  savepoint,
} from "../postgres/sql-transaction.ts";
import { within } from "../runtime/clock.ts";

/** What is said to a caller's client, one statement after the other. */
export class Conversation {
  readonly #client: TransactionClient;
  readonly #doing: string;
  readonly #key: string;
  /** Whether the last statement had its answer: without, what comes next would wait behind it. */
  #isAnswered = true;

  constructor(client: TransactionClient, about: { doing: string; key: string }) {
    this.#client = client;
    this.#doing = about.doing;
    this.#key = about.key;
  }

  /** @throws {InvalidConfigError} there is no transaction */
  async begin(): Promise<void> {
    try {
      await this.tell(savepoint);
    } catch (error) {
      if (!(error instanceof DatabaseError) || error.sqlState !== noTransaction) throw namedLockError(error);
      throw wrongClient(this.#client, "a client with a transaction begun");
    }
  }

  /** Makes the transaction what it was at the savepoint. Never rejects: what it is about has failed already. */
  async undo(): Promise<void> {
    if (!this.#isAnswered) return;
    try {
      await this.tell(rollbackToSavepoint);
      await this.tell(releaseSavepoint);
    } catch {
      // Then the client or the transaction is at its end, as the caller's next statement says.
    }
  }

  async ask<T>({ text }: Statement, values: Array<string | null>): Promise<T> {
    const result = await this.#query(text, values, { doing: this.#doing, deadline: statementDeadline });
    const answer = answerOf(result);
    if (answer === undefined)
      throw wrongClient(this.#client, "a client whose `query` resolves with `{ rows }`");
    return answer as T;
  }

  async tell(
    text: string,
    how: { doing: string; deadline: number } = { doing: this.#doing, deadline: statementDeadline },
  ): Promise<void> {
    await this.#query(text, [], how);
  }

  /** Cancels the statement, unless the client is at another. */
  async cancel(text: string, otherwise: () => Promise<void> | undefined): Promise<void> {
    if (!isCancellable(this.#client)) await otherwise();
    else if (isUnderWay(this.#client, text)) await cancelStatement(this.#client as unknown as Client);
  }

  async #query(text: string, values: unknown[], { doing, deadline }: { doing: string; deadline: number }) {
    this.#isAnswered = false;
    const asking = (async () => this.#client.query(text, values))();
    const answered = (): void => {
      this.#isAnswered = true;
    };
    asking.then(answered, answered);
    try {
      return await within(deadline, asking);
    } catch (cause) {
      // An adapter's own, for a transaction that has ended.
      if (cause instanceof InvalidConfigError) throw cause;
      throw new DatabaseError({ doing, key: this.#key, cause });
    }
  }
}

/** The answer of a row: a text, unless the library has read it as JSON by itself. */
export function answerOf(result: unknown): object | undefined {
  const { rows } = (result ?? {}) as { rows?: unknown };
  const [row] = Array.isArray(rows) ? rows : [];
  const { answer } = (row ?? {}) as { answer?: unknown };
  if (typeof answer !== "string") return typeof answer === "object" && answer !== null ? answer : undefined;
  try {
    const read: unknown = JSON.parse(answer);
    return typeof read === "object" && read !== null ? read : undefined;
  } catch {
    return undefined;
  }
}

function wrongClient(got: unknown, wants: string): InvalidConfigError {
  return new InvalidConfigError({ field: "client", got, wants });
}
