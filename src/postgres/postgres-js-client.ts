import { EventEmitter } from "node:events";
import type { Socket } from "node:net";
import { within } from "../runtime/clock.ts";
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

/** Seconds that postgres.js has to end a connection politely. */
const endWithin = 5;

export interface PostgresJsClientOptions {
  readonly postgresJs: PostgresJsOptions;
}

/** Which of several hosts is tried first. */
const firstHost = new WeakMap<PostgresJsOptions, number>();

//   new ──connect()──▶ open ──end(), destroySocket(), the server, the network──▶ closed
type State =
  | { readonly is: "new" }
  | { readonly is: "open"; readonly engine: Engine; readonly socket: Socket; readonly address: ServerAddress }
  | { readonly is: "closed"; readonly cause: Error };

interface StatementUnderWay {
  readonly text: string;
  fail: (error: Error) => void;
}

/**
 * One connection of postgres.js, with the face of a client of node-postgres.
 *
 * It is an instance of postgres.js of its own, for one connection, on a socket that this client has made: so it is known at once when the
 * connection has gone, nothing is ever connected anew, and the socket can be cut. What postgres.js itself does in the background, and
 * whose failure would end the process, is left out: it reads no list of types, looks for no state of the server, and asks for no
 * password.
 */
export class PostgresJsClient extends EventEmitter implements OwnClient {
  readonly #options: PostgresJsOptions;
  #messages = new ServerMessages();
  #state: State = { is: "new" };
  /** Of the connection that is being made, or is there. */
  #socket: Socket | undefined;
  #isEnding = false;
  /** Tells whoever waits for the connection that there will be none. */
  #giveUp: (cause: Error) => void = () => {};
  /** What the server is at, and what comes after that. */
  readonly #underWay: StatementUnderWay[] = [];

  constructor({ postgresJs }: PostgresJsClientOptions) {
    super();
    this.#options = postgresJs;
  }

  /** The backend that the server announced. */
  get processID(): number | undefined {
    return this.#messages.announced?.pid;
  }

  get isOpen(): boolean {
    return this.#state.is === "open";
  }

  getTransactionStatus(): string | null {
    return this.#messages.transactionStatus;
  }

  /**
   * Of several hosts, takes the first that is a primary, because locks live there; if none is, the last that could be reached. Begins
   * after the one that could not be reached last time. Each has the options' `connect_timeout`.
   *
   * @throws {Error} no connection; the driver's or the system's own
   */
  async connect(): Promise<void> {
    // Neither the application's own functions nor postgres.js hear that nobody wants it any more.
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
        // One that doesn't answer is not to be waited for each time.
        firstHost.set(this.#options, (first + turn + 1) % inTurn.length);
        if (isLast || this.#state.is === "closed") throw error;
      }
      await this.#leave();
    }
  }

  /** A step of the way to a host. */
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

  /** For the next host. */
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
      // postgres.js keeps the reason to itself, and tells them that the connection was closed, when it is.
      if (messages.fatal !== undefined) for (const { fail } of this.#underWay) fail(messages.fatal);
    });
    socket.on("error", (error) => {
      failure = error;
    });
    const lost = (): void => {
      if (this.#state.is === "open" && this.#state.socket === socket) this.#closed(reason());
    };
    // The server says no more: what it is at has no answer. It ends the session in this very step, before the socket is closed.
    socket.on("end", () => {
      socket.destroy();
      lost();
    });
    socket.on("close", () => {
      // postgres.js takes every listener away now.
      queueMicrotask(() => socket.on("error", () => {}));
      lost();
    });
    const engine = make(this.#engineOptions({ socket, address, password, reason }));
    try {
      // Nothing is asked, but postgres.js connects for it.
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
      // One that fails without a listener ends the process.
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

  /** As the options have it, but for one connection, on this socket alone, and without what runs by itself. */
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
      // The socket has it already.
      ssl: false,
      socket: () => {
        // It would connect anew, by itself; and it would never hear of an end before it listens.
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

  /** A statement of the locker's: every value as the server wrote it. */
  query(asked: Query): Promise<Result>;
  query(script: Omit<Query, "values">): Promise<Result | readonly Result[]>;
  /** A statement of whoever has the client of a transaction: rows by name, read as postgres.js does. */
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
    // One message: with parameters, postgres.js would ask for their types first, and write the values as the application has it.
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
    if (this.#state.is === "open") return this.#state.engine;
    throw this.#state.is === "closed" ? this.#state.cause : new Error("the client is not connected");
  }

  /** Whether a statement of this text is what the server is at. */
  isUnderWay(text: string): boolean {
    return this.#underWay[0]?.text === text;
  }

  /** As {@link cancelStatement} of `cancel.ts`. Never rejects. */
  async cancelStatement(): Promise<void> {
    const { announced } = this.#messages;
    if (this.#state.is !== "open" || announced === undefined) return;
    await cancelAt(this.#options, this.#state.address, announced);
  }

  /** Ends it politely. Resolves when it is closed. */
  async end(): Promise<void> {
    this.#isEnding = true;
    if (this.#state.is === "open") await this.#state.engine.end({ timeout: endWithin });
    this.destroySocket();
  }

  /** Closes the socket at once; what is under way fails. */
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
    const wasOpen = this.#state.is === "open";
    this.#state = { is: "closed", cause };
    this.#giveUp(cause);
    if (!wasOpen) return;
    if (!this.#isEnding && this.listenerCount("error") > 0) this.emit("error", cause);
    this.emit("end");
  }
}

/** The application's own transformation of rows is not for ours, which are arrays. */
function withoutRaw(from: ((row: unknown) => unknown) | undefined): typeof from {
  return from && ((row) => (Array.isArray(row) ? row : from(row)));
}

function isOfServer(error: unknown): boolean {
  return error instanceof Error && "severity" in error;
}
