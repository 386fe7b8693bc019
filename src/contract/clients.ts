import type { AcquireOptions, Duration } from "./locker.ts";

/**
 * What is needed of the client of a transaction. Those of node-postgres fit, and so does an object that runs a statement in the
 * transaction of another library.
 *
 * All calls of the locker are `query(text, values)`, where the values are strings and nulls, for the parameters `$1`, `$2` and so
 * on. They read the first row by the name of its column, which is a text.
 */
export interface TransactionClient {
  query(text: string, values?: unknown[]): Promise<{ rows: Record<string, unknown>[] }>;
}

/** What is needed of a client that a lock is taken on: a `Client` of node-postgres, or one of its `Pool`, fits. */
export interface SessionClient extends TransactionClient {
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end" | "drain", listener: () => void): unknown;
  removeListener(event: "error", listener: (error: Error) => void): unknown;
  removeListener(event: "end" | "drain", listener: () => void): unknown;
}

export interface TransactionOptions<C extends TransactionClient = TransactionClient>
  extends Pick<AcquireOptions, "signal" | "mode"> {
  /**
   * How long PostgreSQL lets the transaction be idle, as `idle_in_transaction_session_timeout`: a duration from 1 ms to 24 days.
   * After that it ends the session, and frees the lock; the call rejects with a `LockExpiredError` before. Default `"30s"` with
   * `ttlEnforcement: "server"`, otherwise none.
   *
   * While the process lives and the link does, the locker keeps the transaction alive, however long `fn` is at something else.
   * But a statement of `fn` that takes longer than that ends the call, too: nothing tells it from a dead link. On a client of
   * another library than node-postgres nothing is kept alive: there, `fn` sends a statement within each `ttl`.
   */
  readonly ttl?: Duration;
  /**
   * How long to wait for a holder to give the lock back: a duration, or `true` for as long as it takes. Default (and 0):
   * try once. The call waits in the server, in its transaction, for seconds at a time: those who wait are served in the order in
   * which they came. Where transactions wait for each other, one of them gets a `DatabaseError` with the `sqlState` 40P01.
   */
  readonly wait?: Duration | true;
  /**
   * One that has a transaction begun, which stays the caller's to commit or to roll back: the lock lasts until then.
   * Default: a client of the pool, with a transaction of its own.
   */
  readonly client?: C;
}
