/** The interface as in `pg-locker`, written out here, so that this file doesn't need the package installed. */
export interface TransactionClient {
  query(text: string, values?: unknown[]): Promise<{ rows: Record<string, unknown>[] }>;
}

/** What the tests need of each ORM, with a table `written (what text primary key)`. */
export interface Orm {
  readonly name: string;
  /** Runs `run` in a transaction of the ORM. */
  transaction(run: (transaction: OpenTransaction) => Promise<void>): Promise<void>;
  /** Arguments that somebody may pass by mistake; each throws. */
  readonly mistakes: Readonly<Record<string, () => TransactionClient>>;
  end(): Promise<void>;
}

export interface OpenTransaction {
  /** Makes the adapter as a user does, without a cast. */
  readonly client: TransactionClient;
  /** Makes the adapter once more. */
  again(): TransactionClient;
  write(what: string): Promise<unknown>;
  /** Runs `run` in a savepoint, or whatever the ORM uses for a nested transaction. */
  nested(run: (transaction: OpenTransaction) => Promise<void>): Promise<void>;
  /** Ends the transaction too early, as far as the ORM lets a caller do so. */
  commitEarly(): Promise<unknown>;
}
