/**
 * What is needed of node-postgres: the only place that knows its shape. A `Pool` of `pg` fits, and so does a subclass.
 */
export interface Pool {
  // The callback form calls back in the very step in which the pool gives up its own error listener of the client. A
  // promise would resolve a moment later, and an error in between would end the process.
  connect(callback: (error: Error | undefined, client: Client | undefined, release?: Release) => void): void;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "connect" | "remove", listener: () => void): unknown;
  end(): Promise<void>;
  readonly totalCount: number;
  readonly idleCount: number;
  readonly options: { readonly max: number; readonly connectionTimeoutMillis?: number | null | undefined };
}

/** Gives a client back to its pool; with an argument, for closing. */
export type Release = (destroy?: Error | boolean) => void;

export interface Client {
  query(query: Query): Promise<Result>;
  query(
    query: Query,
    callback: (error: Error | null | undefined, result: Result | Result[] | undefined) => void,
  ): void;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end", listener: () => void): unknown;
  /** As the server said with its last answer: `T` or `E` in a transaction, `I` outside of one. */
  getTransactionStatus?(): string | null;
  removeListener(event: "error", listener: (error: Error) => void): unknown;
  removeListener(event: "end", listener: () => void): unknown;
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
  /** Absent: as {@link Statement} has it, by the simple protocol. */
  readonly values?: unknown[];
}

/** A statement; with a name that is its own, the server parses and plans it once for each connection. */
export interface Statement extends Omit<Query, "values"> {
  /** Several statements in one message of the simple protocol, without values. What follows one that fails is not run. */
  readonly simple?: true;
}

/** Every value as the server wrote it, so that type parsers set by the application change nothing. */
export type Row = ReadonlyArray<string | null>;

const asWritten = { getTypeParser: () => (value: string) => value };

export function statement(text: string, name?: string): Statement {
  return { text, rowMode: "array", types: asWritten, ...(name !== undefined && { name }) };
}

/** Several statements in one message: see {@link Statement.simple}. */
export function statements(text: string): Statement {
  return { ...statement(text), simple: true };
}

/** The same, to be parsed anew. */
export function unnamed(given: Statement): Statement {
  return given.name === undefined ? given : statement(given.text);
}

/** The statement with its values. */
export function query({ simple, ...statement }: Statement, values: unknown[]): Query {
  return simple ? statement : { ...statement, values };
}

/** The backend that the server announced when the connection was made (BackendKeyData), where the driver tells it. */
export function announcedBackend(client: Client): number | undefined {
  const pid = "processID" in client ? client.processID : undefined;
  return typeof pid === "number" ? pid : undefined;
}

/**
 * Closes the socket at once. Ending a client politely waits for its peer, for ever where the link is dead, and the pool
 * hands out no replacement until then.
 */
export function destroySocket(client: Client): void {
  const { connection } = client as { connection?: { stream?: { destroy?(): void } } };
  connection?.stream?.destroy?.();
}

/**
 * A client beside a pool, made as the pool makes its own.
 *
 * @throws whatever the driver throws where it can't read the connection string
 */
export function clientBeside(pool: Pool): OwnClient {
  const { Client } = pool as unknown as { Client: new (options: object) => OwnClient };
  const client = new Client(pool.options);
  // One that fails without a listener ends the process.
  client.on("error", () => {});
  return client;
}
