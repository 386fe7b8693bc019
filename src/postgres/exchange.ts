import { type Client, query, type Result, type Statement, script, unnamed } from "./driver.ts";

/** The answer to a statement: the first value of its row, if there is one, and its command tag, such as `COMMIT`. */
export interface Reply {
  readonly value: string | null | undefined;
  readonly tag: string;
}

/** Sends something, and is told the outcome once. An error is whatever the driver, or a wrapper around it, made of it. */
export interface Sender {
  replied(reply: Reply): void;
  failed(error: unknown): void;
}

/**
 * Sends a statement, or several in one message, and tells the sender the outcome once. Never throws. A statement may answer at most one
 * value; of several statements, the last one's counts. Several are one transaction in the server
 * (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT).
 *
 * With the JavaScript driver this is a message exchange of our own: `client.query` takes any object with a `submit`, such as those of
 * pg-cursor. The driver's own exchange spends half of its time on copies and on a description of the columns, which nobody reads here.
 * Otherwise it is a plain query that returns a promise, and not a prepared one, because every wrapper around a client supports that.
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
    (typeof what === "string"
      ? client.query(script(what))
      : client.query(query(preparable(client, what), [...values]))
    )
      .then((results) => replyOf([results].flat()))
      .then(
        (reply) => sender.replied(reply),
        (error: unknown) => sender.failed(error),
      );
  } catch (error) {
    sender.failed(error);
  }
}

/** A wrapper around a client may add something to each text, and then one name would stand for several statements. */
function preparable(client: Client, statement: Statement): Statement {
  return isDriversOwn(client.query) ? statement : unnamed(statement);
}

/** The answer of the last statement in a message. */
function replyOf(results: readonly Result[]): Reply {
  const last = results.at(-1);
  if (last === undefined) throw new Error("the server answered nothing");
  return { value: last.rows[0]?.[0], tag: last.command ?? "" };
}

/** A parameter in the text format. The items of an array must be such that they need no quotes. */
export type Value = string | null | readonly string[];

/** What an exchange needs of the driver's connection. */
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
 * Whether this is the JavaScript driver, on a socket, with nothing wrapped around its `query`: a tracing agent or an application's own
 * wrapper expects text or a promise there. Nor may the client pipeline, because it then refuses whatever is not its own.
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

/** Recognised by its text, because an application may have several copies of the driver. Only the driver's own method calls `submit`. */
function isDriversOwn(method: (...args: never[]) => unknown): boolean {
  let known = driversOwn.get(method);
  if (known === undefined) {
    known = Function.prototype.toString.call(method).includes(".submit");
    driversOwn.set(method, known);
  }
  return known;
}

const driversOwn = new WeakMap<object, boolean>();

/** Takes the messages of an answer from the driver. */
abstract class Answered implements Reply {
  readonly text: string;
  value: string | null | undefined;
  tag = "";
  readonly #sender: Sender;
  /** What the driver sets as {@link callback} if it has a `query_timeout`. */
  #drivers: Callback | undefined;

  constructor(text: string, sender: Sender) {
    this.text = text;
    this.#sender = sender;
  }

  /** For the driver only, which calls it as a plain function. */
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

/** One Query message. The last row and the last command tag count. */
class ScriptExchange extends Answered {
  submit(connection: Connection): null {
    connection.query(this.text);
    return null;
  }
}

/** Bind, Execute and Sync, after a Parse if the connection does not know the statement. */
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
      // The driver notes what was parsed by the `name` and `text` of this object.
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
