import { type Client, query, type Result, type Statement, script, unnamed } from "./driver.ts";

/** The answer to a statement: the first value of its row, if there is one, and its command tag, such as `COMMIT`. */
export interface Reply {
  readonly value: string | null | undefined;
  readonly tag: string;
}

type Callback = (error: Error | null) => void;

const noCallback: Callback = () => {};

/**
 * A statement, or several in one message, from sending it to its answer. Whoever extends it is told the outcome, once. An error is
 * whatever the driver, or a wrapper around it, made of it. A statement may answer at most one value; of several statements, the last
 * one's counts. Several are one transaction in the server
 * (https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-FLOW-MULTI-STATEMENT).
 *
 * With the JavaScript driver this is a message exchange of our own: `client.query` takes any object with a `submit`, such as those of
 * pg-cursor. The driver's own exchange spends half of its time on copies and on a description of the columns, which nobody reads here.
 * Otherwise it is a plain query that returns a promise, and not a prepared one, because every wrapper around a client supports that.
 */
export abstract class Exchange implements Reply {
  /** The driver notes what was parsed by these two. */
  name = "";
  text = "";
  /** For the driver only, which sets its own if it has a `query_timeout`, and stops its timer in that. */
  callback = noCallback;
  value: string | null | undefined;
  tag = "";
  /** Absent if it is several statements in one message. */
  #values: readonly Value[] | undefined;
  /** Whether the outcome is known. After a time-out of the driver, the answer still comes. */
  #isOver = false;

  // Only this class calls these, one of them once for each time that something is sent.
  abstract replied(reply: Reply): void;
  abstract failed(error: unknown): void;

  /** Sends a statement, or several as a text. Never throws. May be called again once there is an outcome. */
  submitTo(client: Client, what: Statement | string, values: readonly Value[]): void {
    try {
      if (!takesExchanges(client)) {
        this.#queryPlainly(client, what, values);
        return;
      }
      this.callback = noCallback;
      this.#isOver = false;
      if (typeof what === "string") {
        this.text = what;
      } else {
        this.name = what.name ?? "";
        this.text = what.text;
        this.#values = values;
      }
      void client.query(this);
    } catch (error) {
      // Whatever the driver makes of it later is told to nobody.
      this.#isOver = true;
      this.failed(error);
    }
  }

  #queryPlainly(client: Client, what: Statement | string, values: readonly Value[]): void {
    (typeof what === "string"
      ? client.query(script(what))
      : client.query(query(preparable(client, what), [...values]))
    )
      .then((results) => replyOf([results].flat()))
      .then(
        (reply) => this.replied(reply),
        (error: unknown) => this.failed(error),
      );
  }

  /** The driver's turn to send has come: one Query message, or Bind, Execute and Sync, after a Parse if that is needed. */
  submit(connection: Connection): null {
    const { name, text } = this;
    const values = this.#values;
    if (values === undefined) {
      connection.query(text);
      return null;
    }
    connection.stream.cork();
    try {
      if (name === "" || connection.parsedStatements[name] === undefined) {
        connection.parse({ name, text, types: [] });
      }
      connection.bind({ statement: name, values });
      connection.execute({ portal: "", rows: 0 });
      connection.sync();
    } finally {
      connection.stream.uncork();
    }
    return null;
  }

  handleDataRow({ fields }: { fields: ReadonlyArray<string | null> }): void {
    this.value = fields[0];
  }

  handleCommandComplete({ text }: { text: string }): void {
    this.tag = text;
  }

  handleReadyForQuery(): void {
    if (this.#isOver) return;
    this.#isOver = true;
    if (this.callback !== noCallback) this.callback(null);
    this.replied(this);
  }

  handleError(error: Error): void {
    if (this.#isOver) return;
    this.#isOver = true;
    this.callback(error);
    this.failed(error);
  }

  handleRowDescription(): void {}
  handleEmptyQuery(): void {}
  handlePortalSuspended(): void {}
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

/** A parameter in the text format. */
export type Value = string | null;

/** A parameter that is an array, in the text format. Its items must be such that they need no quotes. */
export function arrayOf(items: readonly string[]): string {
  return `{${items.join(",")}}`;
}

/** What an exchange needs of the driver's connection. */
interface Connection {
  readonly parsedStatements: Readonly<Record<string, string | undefined>>;
  readonly stream: { cork(): void; uncork(): void };
  parse(message: { name: string; text: string; types: [] }): void;
  bind(message: { statement: string; values: readonly Value[] }): void;
  execute(message: { portal: string; rows: number }): void;
  sync(): void;
  query(text: string): void;
}

interface ExchangeClient {
  query(exchange: Exchange): void;
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
    (client.query === lastKnown || isDriversOwn(client.query))
  );
}

/** Recognised by its text, because an application may have several copies of the driver. Only the driver's own method calls `submit`. */
function isDriversOwn(method: (...args: never[]) => unknown): boolean {
  let known = driversOwn.get(method);
  if (known === undefined) {
    known = Function.prototype.toString.call(method).includes(".submit");
    driversOwn.set(method, known);
  }
  if (known) lastKnown = method;
  return known;
}

const driversOwn = new WeakMap<object, boolean>();
/** The last method that was recognised; most clients have the same. */
let lastKnown: unknown;
