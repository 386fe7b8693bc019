import type { AcquireOptions, Duration } from "./locker.ts";

/**
 * What is needed of the client of a transaction. Those of node-postgres fit, and so does an object that runs a statement in the
 * transaction of another library.
 *
 * All calls of the locker are `query(text, values)`, with strings and nulls as values, for the parameters `$1`, `$2` and so
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
   * After that it ends the session, and frees the lock; the call rejects with a `LockExpiredError` before.
   *
   * While the process lives and the link does, the locker keeps the transaction alive, however long `fn` is at something else.
   * But a statement of `fn` that takes longer than that ends the call, too: nothing tells it from a dead link. On a client of
   * another library than node-postgres nothing is kept alive: there, `fn` sends a statement within each `ttl`.
   *
   * @default "30s" with `ttlEnforcement: "server"`, otherwise none
   * @example
   * await locker.withTransaction("invoice:42", pay, { ttl: "1m" });
   */
  readonly ttl?: Duration;
  /**
   * How long to wait for a holder to give the lock back: a duration, or `true` for as long as it takes. 0: try once. The call waits in the server, in its transaction, for seconds at a time: callers that wait are served in the order in
   * which they came. If transactions wait for each other, one of them gets a `DatabaseError` with the `sqlState` 40P01.
   *
   * @default 0
   * @example
   * await locker.withTransaction("invoice:42", pay, { wait: "10s" });
   */
  readonly wait?: Duration | true;
  /**
   * A client with a transaction begun, which stays the caller's to commit or to roll back: the lock lasts until then.
   *
   * @default a client of the pool, with a transaction of its own
   * @example
   * await client.query("begin");
   * await locker.withTransaction("invoice:42", pay, { client });
   * await client.query("commit");
   */
  readonly client?: C;
}

/** What is needed of a connection pool: a `Pool` of node-postgres, a subclass of it, or a wrapper that has what is here. */
export interface PoolLike {
  connect(callback: never): unknown;
  on(event: "error", listener: never): unknown;
  end(): Promise<void>;
  readonly totalCount: number;
  readonly idleCount: number;
  readonly options: { readonly max: number };
}
