import type { AcquireOptions, Duration } from "./locker.ts";

/**
 * What the locker needs of the client of a transaction. A client of node-postgres fits, and so does any object that runs statements in
 * another library's transaction.
 *
 * The locker only calls `query(text, values)`. The values are strings and nulls for the parameters `$1`, `$2` and so on; the locker
 * reads the first row, whose only column is of type text.
 */
export interface TransactionClient {
  query(text: string, values?: unknown[]): Promise<{ rows: Record<string, unknown>[] }>;
}

/** What the locker needs of a client to take a lock on it. A `Client` of node-postgres fits, and so does a client of its `Pool`. */
export interface SessionClient extends TransactionClient {
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end" | "drain", listener: () => void): unknown;
  removeListener(event: "error", listener: (error: Error) => void): unknown;
  removeListener(event: "end" | "drain", listener: () => void): unknown;
}

export interface TransactionOptions<C extends TransactionClient = TransactionClient>
  extends Pick<AcquireOptions, "signal" | "mode"> {
  /**
   * How long PostgreSQL lets the transaction be idle (`idle_in_transaction_session_timeout`): a duration from 1 ms to 24 days.
   * After that, PostgreSQL ends the session and frees the lock; the call rejects with a `LockExpiredError` before that happens.
   *
   * While the process and the connection live, the locker keeps the transaction alive, however long `fn` does something else. A
   * statement of `fn` that takes longer than `ttl` ends the call too, because it can't be told from a dead connection. On a client
   * of a library other than node-postgres nothing is kept alive: there, `fn` must send a statement within each `ttl`.
   *
   * @default "30s" with `ttlEnforcement: "server"`, otherwise none
   * @example
   * await locker.withTransaction("invoice:42", pay, { ttl: "1m" });
   */
  readonly ttl?: Duration;
  /**
   * How long to wait for a holder to give the lock back: a duration, `true` for as long as it takes, or 0 to try once. The call waits
   * inside the server, in its transaction, for seconds at a time. Callers are served in order of arrival. If transactions wait for each
   * other, one of them gets a `DatabaseError` whose `sqlState` is 40P01.
   *
   * @default 0
   * @example
   * await locker.withTransaction("invoice:42", pay, { wait: "10s" });
   */
  readonly wait?: Duration | true;
  /**
   * A client on which the caller has begun a transaction. The caller commits it or rolls it back; the lock lasts until then.
   *
   * @default a client of the pool, with a transaction of its own
   * @example
   * await client.query("begin");
   * await locker.withTransaction("invoice:42", pay, { client });
   * await client.query("commit");
   */
  readonly client?: C;
}

/** What the locker needs of a connection pool. A `Pool` of node-postgres fits, and so does a subclass or a wrapper with these members. */
export interface PoolLike {
  connect(callback: never): unknown;
  on(event: "error", listener: never): unknown;
  end(): Promise<void>;
  readonly totalCount: number;
  readonly idleCount: number;
  readonly options: { readonly max: number };
}
