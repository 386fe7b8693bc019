import { InvalidConfigError } from "../contract/errors.ts";

/**
 * What is needed of node-postgres: the only place that knows its shape. A `Pool` of `pg` fits, and so do a subclass, and a
 * wrapper that has what is here.
 */
export interface Pool {
  // The callback form calls back in the same step in which the pool gives up its own error listener of the client. A
  // promise would resolve a moment later, and an error in between would end the process.
  connect(callback: (error: Error | undefined, client: Client | undefined, release?: Release) => void): void;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "connect" | "remove", listener: (client?: Client) => void): unknown;
  end(): Promise<void>;
  /** Of a pool of the locker's own: to be called before {@link clientBeside}. */
  loadDriver?(): Promise<void>;
  readonly totalCount: number;
  readonly idleCount: number;
  /** How many queue for a connection; absent if the pool doesn't tell. */
  readonly waitingCount?: number;
  readonly options: { readonly max: number; readonly connectionTimeoutMillis?: number | null | undefined };
}

/** Gives a client back to its pool; with an argument, for closing. */
export type Release = (destroy?: Error | boolean) => void;

export interface Client {
  query(query: Query): Promise<Result>;
  query(script: Omit<Query, "values">): Promise<Result | readonly Result[]>;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end", listener: () => void): unknown;
  /** As the server said with its last answer: `T` or `E` in a transaction, `I` outside of one. */
  getTransactionStatus?(): string | null;
  removeListener(event: "error", listener: (error: Error) => void): unknown;
  removeListener(event: "end", listener: () => void): unknown;
}

/** What a client of another driver than node-postgres does by itself. */
export interface SelfReliantClient extends Client {
  destroySocket(): void;
  cancelStatement(): Promise<void>;
  isUnderWay(text: string): boolean;
}

export function isSelfReliant(client: object): client is SelfReliantClient {
  const { destroySocket, cancelStatement, isUnderWay } = client as Partial<SelfReliantClient>;
  return [destroySocket, cancelStatement, isUnderWay].every((method) => typeof method === "function");
}

export interface Result {
  readonly rows: Row[];
  /** The command tag's first word, such as `COMMIT`. */
  readonly command?: string;
}

/** A client that is nobody else's. */
export interface OwnClient extends Client {
  connect(): Promise<void>;
  end(): Promise<void>;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end", listener: () => void): unknown;
  on(event: "notification", listener: (message: { payload?: string | undefined }) => void): unknown;
  /** Whether its socket keeps the process alive. */
  ref?(): void;
  unref?(): void;
}

export interface Query {
  readonly name?: string;
  readonly text: string;
  readonly rowMode: "array";
  readonly types: { getTypeParser(): (value: string) => string };
  readonly values: unknown[];
}

/** A statement; with a name that is its own, the server parses and plans it once for each connection. */
export type Statement = Omit<Query, "values">;

/** Every value as the server wrote it, so that type parsers set by the application change nothing. */
export type Row = ReadonlyArray<string | null>;

const asWritten = { getTypeParser: () => (value: string) => value };

export function statement(text: string, name?: string): Statement {
  return { text, rowMode: "array", types: asWritten, ...(name !== undefined && { name }) };
}

/** The same statement without a name, so that the server parses it again. */
export function unnamed({ text }: Statement): Statement {
  return statement(text);
}

/** Several statements in one message: one transaction of the server, whose driver returns a result for each. */
export function script(text: string): Omit<Query, "values"> {
  return statement(text);
}

/** The statement with its values. */
export function query(statement: Statement, values: unknown[]): Query {
  return { ...statement, values };
}

/** The backend that the server announced when the connection was made (BackendKeyData), if the driver tells it. */
export function announcedBackend(client: object): number | undefined {
  const pid = "processID" in client ? client.processID : undefined;
  return typeof pid === "number" ? pid : undefined;
}

/** Whether a client's connection is neither ended nor about to be, as far as the driver tells. */
export function isOpen(client: object): boolean {
  const { _ending, _ended, _queryable } = client as Record<"_ending" | "_ended" | "_queryable", unknown>;
  return _ending !== true && _ended !== true && _queryable !== false;
}

/**
 * Closes the socket at once. Ending a client politely waits for its peer, forever if the link is dead, and the pool
 * hands out no replacement until then.
 */
export function destroySocket(client: Client): void {
  if (isSelfReliant(client)) {
    client.destroySocket();
    return;
  }
  const { connection } = client as { connection?: { stream?: { destroy?(): void } } };
  connection?.stream?.destroy?.();
}

/**
 * Calls `listener` when the server, or whatever is in between, has closed its half of the connection. Node.js closes our half in that very
 * step, and with it the session ends in the server; the driver tells of neither before the socket is closed, which in a busy process may
 * be a turn of the event loop later, and that may take long.
 *
 * @returns what ends the listening
 */
export function listenForHalfClose(client: Client, listener: () => void): () => void {
  const { stream } =
    (client as { connection?: { stream?: Partial<NodeJS.ReadableStream> } }).connection ?? {};
  if (typeof stream?.on !== "function" || typeof stream.removeListener !== "function") return () => {};
  stream.on("end", listener);
  return () => void stream.removeListener?.("end", listener);
}

/** Whether the pool would hand out a connection without a queue, as far as it tells. */
export function hasRoom({ idleCount, totalCount, options }: Pool): boolean {
  return idleCount > 0 || !(totalCount >= options.max);
}

/** Whether {@link clientBeside} can make one: a pool that somebody has wrapped may hide how. */
export function canConnectBeside(pool: Pool): boolean {
  return pool.loadDriver !== undefined || typeof (pool as { Client?: unknown }).Client === "function";
}

/**
 * A client beside a pool, made as the pool makes its own, except for the driver's bound on a statement: that would give a wait up
 * which the server goes on with.
 *
 * @throws {InvalidConfigError} the pool, wrapped by hand, does not say what its clients are
 * @throws whatever the driver throws if it can't read the connection string
 */
export function clientBeside(pool: Pool): OwnClient {
  const { Client } = pool as unknown as { Client?: new (options: object) => OwnClient };
  if (typeof Client !== "function") {
    const wants = "the class of the pool's clients, as node-postgres has it";
    throw new InvalidConfigError({ field: "pool.Client", got: Client, wants });
  }
  const client = new Client(pool.options);
  const { connectionParameters } = client as { connectionParameters?: { query_timeout?: unknown } };
  if (connectionParameters !== undefined) connectionParameters.query_timeout = 0;
  // One that fails without a listener ends the process.
  client.on("error", () => {});
  return client;
}
