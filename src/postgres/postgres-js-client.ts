import { EventEmitter } from "node:events";
import type { Socket } from "node:net";
import { isError } from "../contract/caught-error.ts";
import { soon, within } from "../runtime/clock.ts";
import { type OwnClient, type Query, query, type Result } from "./driver.ts";
import {
  type Engine,
  type EngineQuery,
  type EngineResult,
  loadPostgresJs,
  type PostgresJsOptions,
} from "./postgres-js.ts";
import { cancelAt } from "./postgres-js-cancel.ts";
import { asParameter, lastOf, type NamedRows, namedRows, rawRows } from "./postgres-js-results.ts";
import { ServerMessages } from "./server-messages.ts";
import { addressesOf, connectedAddress, openSocket, type ServerAddress } from "./server-socket.ts";
import { ping } from "./sql.ts";
import { withLiterals } from "./sql-literal.ts";

/** Seconds in which postgres.js may end a connection gracefully. */
const endWithin = 5;

export interface PostgresJsClientOptions {
  readonly postgresJs: PostgresJsOptions;
}

/** The index of the host that is tried first, by the options that name several. */
const firstHost = new WeakMap<PostgresJsOptions, number>();

//   new ──connect()──▶ open ──end()──▶ ending ──its last statement is answered──▶ closed
//    └─────────────────┴──destroySocket(), the server, the network, from any of them──▶ closed
type State =
  | { readonly is: "new" }
  | ({ readonly is: "open" | "ending" } & Connected)
  | { readonly is: "closed"; readonly cause: Error };

interface Connected {
  readonly engine: Engine;
  readonly socket: Socket;
  readonly address: ServerAddress;
}

interface StatementUnderWay {
  readonly text: string;
  fail: (error: Error) => void;
}

/**
 * One connection over postgres.js, with the interface of a node-postgres client.
 *
 * It uses its own instance of postgres.js with a single connection, on a socket that this client opens itself. So the client learns at once
 * that the connection has gone, postgres.js never reconnects, and the socket can be cut. Whatever postgres.js would do in the background,
 * where a failure would end the process, is turned off: it reads no list of types, doesn't look for a primary, and asks for no password.
 */
export class PostgresJsClient extends EventEmitter implements OwnClient {
  readonly #options: PostgresJsOptions;
  #messages = new ServerMessages();
  #state: State = { is: "new" };
  /** The socket of the connection, from when it is being made. */
  #socket: Socket | undefined;
  /** Rejects the `connect` that is under way. */
  #giveUp: (cause: Error) => void = () => {};
  /** The statement that the server is running, then those that follow it. */
  readonly #underWay: StatementUnderWay[] = [];

  constructor({ postgresJs }: PostgresJsClientOptions) {
    super();
    this.#options = postgresJs;
  }

  /** The pid that the server announced for its backend. */
  get processID(): number | undefined {
    return this.#messages.announced?.pid;
  }

  /** The connection, open or ending. */
  get #connected(): Connected | undefined {
    return this.#state.is === "open" || this.#state.is === "ending" ? this.#state : undefined;
  }

  get isOpen(): boolean {
    return this.#state.is === "open";
  }

  getTransactionStatus(): string | null {
    return this.#messages.transactionStatus;
  }

  /**
   * Connects to the first of the hosts that is a primary, because that is where locks are; if none is, to the last one. A host that could
   * not be reached is tried last the next time. The option `connect_timeout` bounds each host by itself.
   *
   * @throws {Error} of the driver or of the system: there is no connection
   */
  async connect(): Promise<void> {
    // The application's functions and postgres.js can't be told that nobody wants the connection any more.
    const givenUp = new Promise<never>((_, reject) => {
      this.#giveUp = reject;
    });
    try {
      await Promise.race([this.#connect(), givenUp]);
    } catch (error) {
      this.destroySocket();
      throw error;
    }
  }

  async #connect(): Promise<void> {
    const addresses = addressesOf(this.#options);
    const first = firstHost.get(this.#options) ?? 0;
    const inTurn = [...addresses.slice(first), ...addresses.slice(0, first)];
    for (const [turn, address] of inTurn.entries()) {
      const isLast = turn === inTurn.length - 1;
      try {
        await this.#connectTo(address);
        if (isLast || (await this.#inTime(this.#isPrimary()))) return;
      } catch (error) {
        // A host that doesn't answer must not be waited for each time.
        firstHost.set(this.#options, (first + turn + 1) % inTurn.length);
        if (isLast || this.#state.is === "closed") throw error;
      }
      await this.#leave();
    }
  }

  /** Bounds one step of a connection by `connect_timeout`. */
  #inTime<T>(step: T | PromiseLike<T>): Promise<T> {
    const seconds = this.#options.connect_timeout ?? 0;
    const taken = Promise.resolve(step);
    return seconds > 0 ? within(seconds * 1_000, taken) : taken;
  }

  async #isPrimary(): Promise<boolean> {
    const { rows } = await this.query(query(ping, []));
    const [isStandby] = JSON.parse(String(rows[0]?.[0])) as [boolean];
    return !isStandby;
  }

  /** Ends the connection to a host, so that the next one can be tried. */
  async #leave(): Promise<void> {
    if (this.#state.is !== "open") return;
    const { engine, socket } = this.#state;
    this.#state = { is: "new" };
    await engine.end({ timeout: endWithin }).catch(() => {});
    socket.destroy();
  }

  async #connectTo(address: ServerAddress): Promise<void> {
    const make = await loadPostgresJs();
    const { pass } = this.#options;
    const password = String((typeof pass === "function" ? await this.#inTime(pass()) : pass) ?? "");
    const socket = await this.#openSocket(address);
    const messages = new ServerMessages();
    this.#messages = messages;
    let failure: Error | undefined;
    const reason = (): Error => messages.fatal ?? failure ?? new Error("Connection terminated unexpectedly");
    socket.on("data", (bytes: Buffer) => {
      messages.read(bytes);
      // postgres.js doesn't pass this reason on: it says only that the connection was closed, once it is.
      if (messages.fatal !== undefined) for (const { fail } of this.#underWay) fail(messages.fatal);
    });
    socket.on("error", (error) => {
      failure = error;
    });
    const lost = (): void => {
      if (this.#connected?.socket === socket) this.#closed(reason());
    };
    // The server sends nothing more, so the statement under way gets no answer. The session ends now, before the socket is closed.
    socket.on("end", () => {
      socket.destroy();
      lost();
    });
    socket.on("close", () => {
      // postgres.js removes every listener now.
      soon(() => socket.on("error", () => {}));
      lost();
    });
    const engine = make(this.#engineOptions({ socket, address, password, reason }));
    try {
      // An empty query, for which postgres.js connects.
      await this.#inTime(engine.unsafe("", []));
    } catch (error) {
      const wasLost = socket.destroyed;
      socket.destroy();
      throw wasLost && !isOfServer(error) ? reason() : error;
    }
    if (this.#state.is === "closed") throw this.#state.cause;
    this.#state = { is: "open", engine, socket, address: connectedAddress(socket, address) };
  }

  async #openSocket(address: ServerAddress): Promise<Socket> {
    let isLate = false;
    const opening = openSocket(this.#options, address, (opened) => {
      // A socket that fails without a listener ends the process.
      opened.on("error", () => {});
      if (isLate || this.#state.is === "closed") {
        opened.destroy();
        throw new Error("nobody waits for the connection any more");
      }
      this.#socket = opened;
    });
    try {
      return await this.#inTime(opening);
    } catch (error) {
      isLate = true;
      this.#socket?.destroy();
      throw error;
    }
  }

  /** The application's options, changed for one connection on this socket, and without anything that runs in the background. */
  #engineOptions(made: {
    socket: Socket;
    address: ServerAddress;
    password: string;
    reason: () => Error;
  }): object {
    const { transform, shared } = this.#options;
    const { socket, address, password, reason } = made;
    let isTaken = false;
    return {
      ...this.#options,
      max: 1,
      host: [address.name],
      port: ["port" in address.at ? address.at.port : 0],
      path: false,
      pass: password,
      // The socket is encrypted already.
      ssl: false,
      socket: () => {
        // Otherwise postgres.js would reconnect by itself, or miss an end that came before it listened.
        if (isTaken || socket.destroyed) throw reason();
        isTaken = true;
        return socket;
      },
      fetch_types: false,
      target_session_attrs: null,
      idle_timeout: null,
      max_lifetime: null,
      connect_timeout: null,
      no_subscribe: true,
      debug: false,
      onnotice: () => {},
      onparameter: undefined,
      onclose: undefined,
      onnotify: (channel: string, payload: string) => this.emit("notification", { channel, payload }),
      parameters: {},
      shared: { ...shared, retries: 0 },
      transform: { ...transform, row: { ...transform.row, from: withoutRaw(transform.row?.from) } },
    };
  }

  /** Sends a statement of the locker's. Returns each value as the server wrote it. */
  query(asked: Query): Promise<Result>;
  query(script: Omit<Query, "values">): Promise<Result | readonly Result[]>;
  /** Sends a statement of the application's, on the client of a transaction. Returns rows by column name, parsed by postgres.js. */
  query(text: string, values?: readonly unknown[]): Promise<NamedRows>;
  async query(
    asked: Query | Omit<Query, "values"> | string,
    given: readonly unknown[] = [],
  ): Promise<Result | readonly Result[] | NamedRows> {
    const engine = this.#engine();
    if (typeof asked === "string") {
      const result = await this.#send(asked, () => engine.unsafe(asked, given.map(asParameter)));
      return lastOf(result, namedRows);
    }
    // Literals, in one message: with parameters, postgres.js would first ask for their types, and apply the application's serializers.
    const text = "values" in asked ? withLiterals(asked.text, asked.values) : asked.text;
    const result = await this.#send(asked.text, () => engine.unsafe(text, []).raw());
    return lastOf(result, rawRows);
  }

  async #send(text: string, ask: () => EngineQuery | ReturnType<EngineQuery["raw"]>): Promise<EngineResult> {
    const asked: StatementUnderWay = { text, fail: () => {} };
    const failed = new Promise<never>((_, reject) => {
      asked.fail = reject;
    });
    this.#underWay.push(asked);
    try {
      return await Promise.race([ask(), failed]);
    } catch (error) {
      throw this.#state.is === "closed" && !isOfServer(error) ? this.#state.cause : error;
    } finally {
      this.#underWay.splice(this.#underWay.indexOf(asked), 1);
    }
  }

  #engine(): Engine {
    if (this.#connected !== undefined) return this.#connected.engine;
    throw this.#state.is === "closed" ? this.#state.cause : new Error("the client is not connected");
  }

  /** Whether the server is running a statement with this text. */
  isUnderWay(text: string): boolean {
    return this.#underWay[0]?.text === text;
  }

  /** Cancels the statement that the server is running, as {@link cancelStatement} of `cancel.ts` does. Never rejects. */
  async cancelStatement(): Promise<void> {
    const { announced } = this.#messages;
    if (this.#connected === undefined || announced === undefined) return;
    await cancelAt(this.#options, this.#connected.address, announced);
  }

  /** Ends the connection gracefully. Resolves when it is closed. */
  async end(): Promise<void> {
    const connected = this.#connected;
    if (connected !== undefined) {
      this.#state = { ...connected, is: "ending" };
      await connected.engine.end({ timeout: endWithin });
    }
    this.destroySocket();
  }

  /** Closes the socket at once. Statements under way fail. */
  destroySocket(): void {
    this.#socket?.destroy();
    this.#closed(new Error("the connection was closed"));
  }

  ref(): void {
    this.#socket?.ref?.();
  }

  unref(): void {
    this.#socket?.unref?.();
  }

  #closed(cause: Error): void {
    if (this.#state.is === "closed") return;
    const { is } = this.#state;
    this.#state = { is: "closed", cause };
    this.#giveUp(cause);
    if (is === "open" && this.listenerCount("error") > 0) this.emit("error", cause);
    if (is !== "new") this.emit("end");
  }
}

/** Applies the application's transformation of rows only to its own rows, which are objects; ours are arrays. */
function withoutRaw(from: ((row: unknown) => unknown) | undefined): typeof from {
  return from && ((row) => (Array.isArray(row) ? row : from(row)));
}

function isOfServer(error: unknown): boolean {
  return isError(error) && "severity" in error;
}
