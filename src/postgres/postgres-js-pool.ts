import { EventEmitter } from "node:events";
import { unrefed } from "../runtime/clock.ts";
import type { Client, Pool, Release } from "./driver.ts";
import { optionsOf, type PostgresJs } from "./postgres-js.ts";
import { PostgresJsClient, type PostgresJsClientOptions } from "./postgres-js-client.ts";

type Connected = Parameters<Pool["connect"]>[0];

/** Milliseconds that an idle connection is kept. */
const idleTimeout = 10_000;

//   open ──end()──▶ ending: connections in use are waited for
type State =
  | { readonly is: "open" }
  /** `onEmpty` is called when the last connection has gone. */
  | { readonly is: "ending"; readonly onEmpty: () => void };

/**
 * The locker's own pool over postgres.js. It connects with the options of the application's `sql`, and has at most that many connections.
 * Idle connections don't keep the process alive.
 */
export class PostgresJsPool extends EventEmitter implements Pool {
  /** The class that {@link clientBeside} makes a client of. */
  readonly Client = PostgresJsClient;
  readonly options: PostgresJsClientOptions & {
    readonly max: number;
    /** Milliseconds in which a connection has to be made. */
    readonly connectionTimeoutMillis: number;
  };
  readonly #clients = new Set<PostgresJsClient>();
  readonly #dialing = new Set<PostgresJsClient>();
  readonly #idle = new Map<PostgresJsClient, Idle>();
  readonly #queue: Connected[] = [];
  #state: State = { is: "open" };

  constructor(sql: PostgresJs) {
    super();
    const postgresJs = optionsOf(sql);
    const connectionTimeoutMillis = (postgresJs.connect_timeout ?? 0) * 1_000;
    this.options = { max: sql.options.max, connectionTimeoutMillis, postgresJs };
  }

  get totalCount(): number {
    return this.#clients.size;
  }

  get idleCount(): number {
    return this.#idle.size;
  }

  get waitingCount(): number {
    return this.#queue.length;
  }

  connect(callback: Connected): void {
    if (this.#state.is === "ending") {
      callback(new Error("the pool has ended"), undefined);
      return;
    }
    const [client] = [...this.#idle.keys()].slice(-1);
    if (client !== undefined) {
      this.#take(client);
      this.#hand(client, callback);
    } else if (this.#clients.size < this.options.max) {
      this.#dial(callback);
    } else {
      this.#queue.push(callback);
    }
  }

  /** Ends the pool. Resolves when the last connection is back; connections that are being made are given up. */
  async end(): Promise<void> {
    const empty = new Promise<void>((onEmpty) => {
      this.#state = { is: "ending", onEmpty };
    });
    for (const callback of this.#queue.splice(0)) callback(new Error("the pool has ended"), undefined);
    for (const client of this.#dialing) client.destroySocket();
    const idle = [...this.#idle.keys()];
    for (const client of idle) this.#take(client);
    await Promise.all(idle.map((client) => client.end().catch(() => {})));
    for (const client of idle) this.#remove(client);
    if (this.#clients.size > 0) await empty;
  }

  #dial(callback: Connected): void {
    const client = new PostgresJsClient(this.options);
    this.#clients.add(client);
    this.#dialing.add(client);
    client.connect().then(
      () => {
        this.#dialing.delete(client);
        this.emit("connect", client);
        this.#hand(client, callback);
      },
      (error: Error) => {
        this.#remove(client);
        callback(error, undefined);
      },
    );
  }

  #hand(client: PostgresJsClient, callback: Connected): void {
    let isReleased = false;
    const release: Release = (destroy) => {
      if (isReleased) return;
      isReleased = true;
      this.#release(client, destroy);
    };
    callback(undefined, client as Client, release);
  }

  #release(client: PostgresJsClient, destroy: Error | boolean | undefined): void {
    const isUsable = client.isOpen && client.getTransactionStatus() === "I";
    if (destroy || this.#state.is === "ending" || !isUsable) {
      client.destroySocket();
      this.#remove(client);
      return;
    }
    const next = this.#queue.shift();
    if (next !== undefined) this.#hand(client, next);
    else this.#rest(client);
  }

  #rest(client: PostgresJsClient): void {
    const onEnd = (): void => {
      this.#take(client);
      this.#remove(client);
    };
    const timer = unrefed(
      setTimeout(() => {
        this.#take(client);
        client.end().then(
          () => this.#remove(client),
          () => this.#remove(client),
        );
      }, idleTimeout),
    );
    this.#idle.set(client, { timer, onEnd });
    client.on("end", onEnd);
    client.unref();
  }

  #take(client: PostgresJsClient): void {
    const idle = this.#idle.get(client);
    if (idle === undefined) return;
    this.#idle.delete(client);
    clearTimeout(idle.timer);
    client.removeListener("end", idle.onEnd);
    client.ref();
  }

  /** Forgets a client, and connects for the next caller in its place. As in node-postgres, no event tells of one that never connected. */
  #remove(client: PostgresJsClient): void {
    if (!this.#clients.delete(client)) return;
    if (!this.#dialing.delete(client)) this.emit("remove", client);
    const next = this.#state.is === "open" ? this.#queue.shift() : undefined;
    if (next !== undefined) this.#dial(next);
    if (this.#state.is === "ending" && this.#clients.size === 0) this.#state.onEmpty();
  }
}

interface Idle {
  readonly timer: NodeJS.Timeout;
  onEnd(): void;
}
