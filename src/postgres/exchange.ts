import { type Client, query, type Result, type Statement, script } from "./driver.ts";

/** What a statement answered: the first value of its row, if it has one, and its command tag, such as `COMMIT`. */
export interface Reply {
  readonly value: string | null | undefined;
  readonly tag: string;
}

/** An error is whatever the driver, or what is wrapped around it, made of it. */
type Callback = (error: unknown, reply?: Reply) => void;

/**
 * Sends a statement, and calls back once with its answer. Never throws. For what answers one value at most.
 *
 * If the driver is the JavaScript one, it is a message exchange of our own (`client.query` takes any object with a `submit`,
 * as those of pg-cursor): the driver's own spends half of its time on copies and on a description of the columns, which
 * nobody reads here. Otherwise it is a plain query, for its promise: that is what everything that wraps a client can do.
 */
export function exchange(client: Client, statement: Statement, values: Value[], callback: Callback): void {
  try {
    if (takesExchanges(client)) {
      void client.query(new Exchange(statement, values, callback));
      return;
    }
    client
      .query(query(statement, values))
      .then((result) => replyOf([result].flat()))
      .then((reply) => callback(null, reply), callback);
  } catch (error) {
    callback(error);
  }
}

/**
 * Sends several statements in one message, and calls back once with what the last of them returned. Never throws. They are one
 * transaction of the server (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT).
 */
export function exchangeScript(client: Client, text: string, callback: Callback): void {
  try {
    if (takesExchanges(client)) {
      void client.query(new ScriptExchange(text, callback));
      return;
    }
    client
      .query(script(text))
      .then((results) => replyOf([results].flat()))
      .then((reply) => callback(null, reply), callback);
  } catch (error) {
    callback(error);
  }
}

/** Of several statements in one message, what the last one said. */
function replyOf(results: readonly Result[]): Reply {
  const last = results.at(-1);
  if (last === undefined) throw new Error("the server answered nothing");
  return { value: last.rows[0]?.[0], tag: last.command ?? "" };
}

/** In the text format: an array is of what needs no quotes. */
export type Value = string | null | readonly string[];

/** What is needed of the driver's connection. */
interface Connection {
  readonly parsedStatements: Readonly<Record<string, string | undefined>>;
  readonly stream: { cork(): void; uncork(): void };
  parse(message: { name: string; text: string; types: [] }): void;
  bind(message: { statement: string; values: Array<string | null> }): void;
  execute(message: { portal: string; rows: number }): void;
  sync(): void;
  query(text: string): void;
}

interface ExchangeClient {
  query(exchange: Exchange | ScriptExchange): void;
}

/**
 * Whether it is the JavaScript driver, on a socket, and nothing is wrapped around its `query`. A tracing agent, or an
 * application's own wrapper, expects text or a promise there. And not one that pipelines, which refuses whatever is not its own.
 */
function takesExchanges(client: Client | ExchangeClient): client is ExchangeClient {
  const { connection, pipeline } = client as { connection?: Partial<Connection>; pipeline?: boolean };
  return (
    connection?.parsedStatements !== undefined &&
    pipeline !== true &&
    typeof connection.stream?.cork === "function" &&
    isDriversOwn(client.query)
  );
}

/** By the text of the function: only the driver's own knows what `submit` is. An application may have several copies of it. */
function isDriversOwn(method: (...args: never[]) => unknown): boolean {
  let known = driversOwn.get(method);
  if (known === undefined) {
    known = Function.prototype.toString.call(method).includes(".submit");
    driversOwn.set(method, known);
  }
  return known;
}

const driversOwn = new WeakMap<object, boolean>();

/** What the driver calls as the messages of an answer come. */
abstract class Answered {
  readonly text: string;
  /** The driver puts its own in the place of it if it has a `query_timeout`. */
  callback: Callback;
  #value: string | null | undefined;
  #tag = "";

  constructor(text: string, callback: Callback) {
    this.text = text;
    this.callback = callback;
  }

  handleDataRow({ fields }: { fields: ReadonlyArray<string | null> }): void {
    this.#value = fields[0];
  }

  handleCommandComplete({ text }: { text: string }): void {
    this.#tag = text;
  }

  handleReadyForQuery(): void {
    this.callback(null, { value: this.#value, tag: this.#tag });
  }

  handleError(error: Error): void {
    this.callback(error);
  }

  handleRowDescription(): void {}
  handleEmptyQuery(): void {}
  handlePortalSuspended(): void {}
}

/** One Query message, of which the last row and the last command tag count. */
class ScriptExchange extends Answered {
  submit(connection: Connection): null {
    connection.query(this.text);
    return null;
  }
}

/** Bind, Execute and Sync, with Parse before them if the connection does not know the statement. The driver calls the rest. */
class Exchange extends Answered {
  readonly name: string;
  readonly #values: Value[];

  constructor({ name = "", text }: Statement, values: Value[], callback: Callback) {
    super(text, callback);
    this.name = name;
    this.#values = values;
  }

  submit(connection: Connection): null {
    const { name, text } = this;
    connection.stream.cork();
    try {
      // The driver notes what was parsed, by the name and the text that it reads here.
      if (name === "" || connection.parsedStatements[name] === undefined) {
        connection.parse({ name, text, types: [] });
      }
      connection.bind({ statement: name, values: this.#values.map(asText) });
      connection.execute({ portal: "", rows: 0 });
      connection.sync();
    } finally {
      connection.stream.uncork();
    }
    return null;
  }
}

function asText(value: Value): string | null {
  return typeof value === "object" && value !== null ? `{${value.join(",")}}` : value;
}
