import { DatabaseError, databaseFailure } from "../contract/errors.ts";
import {
  clientBeside,
  destroySocket,
  type OwnClient,
  type Pool,
  type Statement,
} from "../postgres/driver.ts";
import type { Value } from "../postgres/exchange.ts";
import { Session } from "../postgres/session.ts";
import { begin, rollback } from "../postgres/sql-transaction.ts";
import { within } from "../runtime/clock.ts";

const doing = "Asking";

/** A connection that a diagnosis opened for itself. */
export class DiagnosisLine {
  readonly session: Session;
  readonly #pool: Pool;
  readonly #deadline: () => number;
  #ended: Promise<void> | undefined;

  private constructor(pool: Pool, client: OwnClient, deadline: () => number) {
    this.#pool = pool;
    this.#deadline = deadline;
    this.session = new Session(client, (cause) => {
      if (cause === undefined) this.#ended = client.end();
    });
  }

  /**
   * Opens a connection beside the pool.
   *
   * @param deadline returns the milliseconds that the next answer may take, that to the opening included
   * @throws {DatabaseError}
   */
  static async open(pool: Pool, deadline: () => number): Promise<DiagnosisLine> {
    let client: OwnClient | undefined;
    try {
      client = await clientBeside(pool);
      await within(deadline(), client.connect());
      return new DiagnosisLine(pool, client, deadline);
    } catch (cause) {
      if (client !== undefined) destroySocket(client);
      throw databaseFailure("Connecting", cause);
    }
  }

  /** The milliseconds that the next answer may take. */
  get deadline(): number {
    return this.#deadline();
  }

  another(): Promise<DiagnosisLine> {
    return DiagnosisLine.open(this.#pool, this.#deadline);
  }

  /** Runs one statement and returns its answer. @throws {DatabaseError} */
  async ask<T>(statement: Statement, values: Value[] = []): Promise<T> {
    return (await this.session.run<T>(doing, statement, values, this.deadline)).said;
  }

  /** Begins a transaction. Returns whether that worked: a pooler in statement mode refuses transactions. @throws {DatabaseError} */
  async begin(): Promise<boolean> {
    try {
      await this.session.command(doing, begin, this.deadline);
      return true;
    } catch (error) {
      if (error instanceof DatabaseError && error.sqlState === "08P01") return false;
      throw error;
    }
  }

  /** Rolls back the transaction that {@link begin} began. @throws {DatabaseError} */
  async rollback(): Promise<void> {
    await this.session.command(doing, rollback, this.deadline);
  }

  async close(): Promise<void> {
    this.session.return();
    if (this.#ended === undefined) return;
    await within(this.deadline, this.#ended).catch(() => destroySocket(this.session.client));
  }
}
