import { type Client, query, type Result, type Statement, script } from "./driver.ts";

/** What a statement answered: the first value of its row, if it has one, and its command tag, such as `COMMIT`. */
export interface Reply {
  readonly value: string | null | undefined;
  readonly tag: string;
}

/** Who sends something, and is told once what came of it. An error is whatever the driver, or what is wrapped around it, made of it. */
export interface Sender {
  replied(reply: Reply): void;
  failed(error: unknown): void;
}

/**
 * Sends a statement, or several in one message, and tells its sender once what came of it. Never throws. For what answers one value at
 * most; of several statements it is that of the last. Several are one transaction of the server
 * (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT).
 *
 * If the driver is the JavaScript one, it is a message exchange of our own (`client.query` takes any object with a `submit`,
 * as those of pg-cursor): the driver's own spends half of its time on copies and on a description of the columns, which
 * nobody reads here. Otherwise it is a plain query, for its promise: that is what everything that wraps a client can do.
 */
export function exchange(
  client: Client,
  what: Statement | string,
  values: readonly Value[],
  sender: Sender,
): void {
  try {
    if (takesExchanges(client)) {
      void client.query(
        typeof what === "string" ? new ScriptExchange(what, sender) : new Exchange(what, values, sender),
      );
      return;
    }
    (typeof what === "string" ? client.query(script(what)) : client.query(query(what, [...values])))
      .then((results) => replyOf([results].flat()))
      .then(
        (reply) => sender.replied(reply),
        (error: unknown) => sender.failed(error),
      );
  } catch (error) {
    sender.failed(error);
  }
}

/** What the last one of several statements in a message said. */
function replyOf(results: readonly Result[]): Reply {
  const last = results.at(-1);
  if (last === undefined) throw new Error("the server answered nothing");
  return { value: last.rows[0]?.[0], tag: last.command ?? "" };
}

/** A parameter in the text format. The items of an array are such that they need no quotes. */
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
  query(exchange: Answered): void;
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

/** Known by its text, because an application may have several copies of the driver; only the driver's own method calls `submit`. */
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
abstract class Answered implements Reply {
  readonly text: string;
  value: string | null | undefined;
  tag = "";
  readonly #sender: Sender;
  /** What the driver puts in the place of {@link callback} if it has a `query_timeout`. */
  #drivers: Callback | undefined;

  constructor(text: string, sender: Sender) {
    this.text = text;
    this.#sender = sender;
  }

  /** For the driver alone, which calls it without its object. */
  get callback(): Callback {
    return this.#drivers ?? ((error) => this.#end(error));
  }

  set callback(callback: Callback) {
    this.#drivers = callback;
  }

  handleDataRow({ fields }: { fields: ReadonlyArray<string | null> }): void {
    this.value = fields[0];
  }

  handleCommandComplete({ text }: { text: string }): void {
    this.tag = text;
  }

  handleReadyForQuery(): void {
    if (this.#drivers === undefined) this.#sender.replied(this);
    else this.#drivers(null);
  }

  handleError(error: Error): void {
    this.callback(error);
  }

  handleRowDescription(): void {}
  handleEmptyQuery(): void {}
  handlePortalSuspended(): void {}

  #end(error: Error | null): void {
    if (error === null) this.#sender.replied(this);
    else this.#sender.failed(error);
  }
}

type Callback = (error: Error | null) => void;

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
  readonly #values: readonly Value[];

  constructor({ name = "", text }: Statement, values: readonly Value[], sender: Sender) {
    super(text, sender);
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
      connection.bind({ statement: name, values: asTexts(this.#values) });
      connection.execute({ portal: "", rows: 0 });
      connection.sync();
    } finally {
      connection.stream.uncork();
    }
    return null;
  }
}

function asTexts(values: readonly Value[]): Array<string | null> {
  const texts: Array<string | null> = [];
  for (const value of values) {
    texts.push(typeof value === "object" && value !== null ? `{${value.join(",")}}` : value);
  }
  return texts;
}
