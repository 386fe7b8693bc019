/** As `pg-locker` has it; written out, so that this file needs none installed. */
export interface TransactionClient {
  query(text: string, values?: unknown[]): Promise<{ rows: Record<string, unknown>[] }>;
}

/** What the tests ask of each ORM, on a table `written (what text primary key)`. */
export interface Orm {
  readonly name: string;
  /** Runs `run` in a transaction of the ORM's. */
  transaction(run: (transaction: OpenTransaction) => Promise<void>): Promise<void>;
  /** What somebody may pass by mistake; each throws. */
  readonly mistakes: Readonly<Record<string, () => TransactionClient>>;
  end(): Promise<void>;
}

export interface OpenTransaction {
  /** As a user makes it: with no cast. */
  readonly client: TransactionClient;
  /** Makes it once more. */
  again(): TransactionClient;
  write(what: string): Promise<unknown>;
  /** Runs `run` in a savepoint, or whatever the ORM makes of a transaction in a transaction. */
  nested(run: (transaction: OpenTransaction) => Promise<void>): Promise<void>;
  /** Ends the transaction before its time, as far as the ORM lets somebody. */
  commitEarly(): Promise<unknown>;
}
