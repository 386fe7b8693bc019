import { InvalidConfigError } from "../contract/errors.ts";

/**
 * What the library needs of node-postgres. Only this file knows its shape. A `Pool` of `pg` fits, and so does a subclass or a wrapper
 * with these members.
 */
export interface Pool {
  // The callback form, because the pool calls back in the same step in which it removes its error listener from the client. A
  // promise would resolve a moment later, and an error in between would crash the process.
  connect(callback: (error: Error | undefined, client: Client | undefined, release?: Release) => void): void;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "connect" | "remove", listener: (client?: Client) => void): unknown;
  end(): Promise<void>;
  /** Only on a pool that the locker made itself: loads the driver. To be called before {@link clientBeside}. */
  loadDriver?(): Promise<void>;
  readonly totalCount: number;
  readonly idleCount: number;
  /** How many callers queue for a connection; absent if the pool doesn't say. */
  readonly waitingCount?: number;
  readonly options: { readonly max: number; readonly connectionTimeoutMillis?: number | null | undefined };
}

/** Returns a client to its pool; with a true argument or an error, the pool closes it. */
export type Release = (destroy?: Error | boolean) => void;

export interface Client {
  query(query: Query): Promise<Result>;
  query(script: Omit<Query, "values">): Promise<Result | readonly Result[]>;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end", listener: () => void): unknown;
  /** The transaction status of the server's last answer: `T` in a transaction, `E` in one that has failed, `I` outside. */
  getTransactionStatus?(): string | null;
  removeListener(event: "error", listener: (error: Error) => void): unknown;
  removeListener(event: "end", listener: () => void): unknown;
}

/** A client of a driver other than node-postgres, with methods for what differs between drivers. */
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
  /** The first word of the command tag, such as `COMMIT`. */
  readonly command?: string;
}

/** A client that the locker created itself and that belongs to no pool. */
export interface OwnClient extends Client {
  connect(): Promise<void>;
  end(): Promise<void>;
  on(event: "error", listener: (error: Error) => void): unknown;
  on(event: "end", listener: () => void): unknown;
  /** Lets the client's socket keep the process alive. */
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

/** A statement without its values. If it has a name, the server parses and plans it once for each connection. */
export type Statement = Omit<Query, "values">;

/** A row with every value as the server wrote it, so that type parsers set by the application don't matter. */
export type Row = ReadonlyArray<string | null>;

const asWritten = { getTypeParser: () => (value: string) => value };

// So that a bundler leaves out a statement that nothing uses.
/* @__NO_SIDE_EFFECTS__ */
export function statement(text: string, name?: string): Statement {
  return { text, rowMode: "array", types: asWritten, ...(name !== undefined && { name }) };
}

/** A copy of a statement without its name, so that the server parses it anew. */
export function unnamed({ text }: Statement): Statement {
  return statement(text);
}

/** Several statements in one message: the server runs them in one transaction, and the driver returns a result for each. */
export function script(text: string): Omit<Query, "values"> {
  return statement(text);
}

/** A statement together with its values. */
export function query(statement: Statement, values: unknown[]): Query {
  return { ...statement, values };
}

/** The pid of the backend as announced when the connection was opened (BackendKeyData), if the driver exposes it. */
export function announcedBackend(client: object): number | undefined {
  const pid = "processID" in client ? client.processID : undefined;
  return typeof pid === "number" ? pid : undefined;
}

/** Whether a client's connection is open and not about to end, as far as the driver says. */
export function isOpen(client: object): boolean {
  const { _ending, _ended, _queryable } = client as Record<"_ending" | "_ended" | "_queryable", unknown>;
  return _ending !== true && _ended !== true && _queryable !== false;
}

/**
 * Closes a client's socket at once. `client.end()` would wait for the server, forever if the link is dead, and the pool opens no
 * replacement until then.
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
 * Calls `listener` when the server, or a device in between, has closed its half of the connection. Node.js closes our half in the same
 * step, which ends the session in the server. The driver reports neither until the socket is fully closed, which is a turn of the event
 * loop later, and so can take long in a busy process.
 *
 * @returns a function that stops listening
 */
export function listenForHalfClose(client: Client, listener: () => void): () => void {
  const { stream } =
    (client as { connection?: { stream?: Partial<NodeJS.ReadableStream> } }).connection ?? {};
  if (typeof stream?.on !== "function" || typeof stream.removeListener !== "function") return () => {};
  stream.on("end", listener);
  return () => void stream.removeListener?.("end", listener);
}

/** Whether the pool would hand out a connection without queueing, as far as it says. */
export function hasRoom({ idleCount, totalCount, options }: Pool): boolean {
  return idleCount > 0 || !(totalCount >= options.max);
}

/**
 * Whether a lock on a connection of the pool would leave the application without one, so that it would wait for itself. Such locks get
 * connections beside the pool.
 */
export function leavesNothing({ options }: Pool): boolean {
  return options.max === 1;
}

/** Whether the pool has been ended, as far as it says: it hands out nothing to those in its queue, and refuses whoever asks anew. */
export function isEnding(pool: Pool): boolean {
  return (pool as { ending?: unknown }).ending === true;
}

/** Whether {@link clientBeside} works for this pool: a wrapper may hide the class of the pool's clients. */
export function canConnectBeside(pool: Pool): boolean {
  return pool.loadDriver !== undefined || typeof (pool as { Client?: unknown }).Client === "function";
}

/**
 * Creates a client beside a pool, with the pool's own settings except for the driver's time-out of a statement: after that, the driver
 * would give up a wait that goes on in the server.
 *
 * @throws {InvalidConfigError} the pool is a wrapper that doesn't expose the class of its clients
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
  // A client that fails without an error listener crashes the process.
  client.on("error", () => {});
  return client;
}
