import { toError } from "../contract/caught-error.ts";
import type { Client, OwnClient, Pool } from "./driver.ts";

type Connected = Parameters<Pool["connect"]>[0];
type Event = "error" | "connect" | "remove";

export interface LazyPoolOptions {
  readonly connectionString: string;
  readonly max: number;
  readonly keepAlive: boolean;
  readonly allowExitOnIdle: boolean;
  /** Milliseconds. */
  readonly connectionTimeoutMillis: number;
}

/** The export of the package `pg` that is used. */
interface NodePostgres {
  readonly Pool: new (options: LazyPoolOptions) => Pool;
  readonly Client: new (options: object) => OwnClient;
}

//   new ──connect(), loadDriver()──▶ loading ──▶ open
//    └───────────── end(), from any of them ──▶ ended
type State =
  | { readonly is: "new" }
  /** Rejects, for ever, if the driver is not installed. */
  | { readonly is: "loading"; readonly made: Promise<Pool> }
  | { readonly is: "open"; readonly pool: Pool }
  /** Without a pool, if the driver had not been loaded by then. */
  | { readonly is: "ended"; readonly pool: Pool | undefined };

/**
 * A node-postgres pool that the locker makes itself. It loads the driver on the first connection, so an application that gives a pool, or
 * the `sql` of postgres.js, doesn't need `pg`.
 */
export class LazyPool implements Pool {
  readonly options: LazyPoolOptions;
  /** The class of the pool's clients; `undefined` until the driver is loaded. */
  Client: (new (options: object) => OwnClient) | undefined;
  readonly #listeners: Array<(pool: Pool) => void> = [];
  #state: State = { is: "new" };

  constructor(options: LazyPoolOptions) {
    this.options = options;
  }

  get #pool(): Pool | undefined {
    return "pool" in this.#state ? this.#state.pool : undefined;
  }

  get totalCount(): number {
    return this.#pool?.totalCount ?? 0;
  }

  get idleCount(): number {
    return this.#pool?.idleCount ?? 0;
  }

  get waitingCount(): number {
    return this.#pool?.waitingCount ?? 0;
  }

  on(event: Event, listener: (about: never) => void): void {
    const listen = (pool: Pool): unknown => pool.on(event as "remove", listener as (client?: Client) => void);
    if (this.#pool === undefined) this.#listeners.push(listen);
    else listen(this.#pool);
  }

  connect(callback: Connected): void {
    if (this.#pool !== undefined) {
      this.#pool.connect(callback);
      return;
    }
    const failed = (error: unknown): void => callback(toError(error), undefined);
    this.#load().then((pool) => {
      try {
        pool.connect(callback);
      } catch (error) {
        // The connection string can't be parsed.
        failed(error);
      }
    }, failed);
  }

  /** Loads `pg`. @throws {Error} it is not installed */
  async loadDriver(): Promise<void> {
    await this.#load();
  }

  async end(): Promise<void> {
    // A driver that was never needed isn't loaded only to end its pool.
    const pool = this.#pool;
    this.#state = { is: "ended", pool };
    await pool?.end();
  }

  async #load(): Promise<Pool> {
    if (this.#state.is === "loading") return this.#state.made;
    if (this.#pool !== undefined) return this.#pool;
    if (this.#state.is === "ended") throw new Error("the pool has ended");
    const made = this.#make();
    this.#state = { is: "loading", made };
    return made;
  }

  async #make(): Promise<Pool> {
    const { Pool, Client } = await loadNodePostgres();
    if (this.#state.is === "ended") throw new Error("the pool has ended");
    this.Client = Client;
    const pool = new Pool(this.options);
    this.#state = { is: "open", pool };
    for (const listen of this.#listeners) listen(pool);
    return pool;
  }
}

/** Imports `pg`. @throws {Error} it is not installed */
async function loadNodePostgres(): Promise<NodePostgres> {
  try {
    const { default: pg } = await import("pg");
    return pg as unknown as NodePostgres;
  } catch (cause) {
    throw new TypeError(
      "the option `connectionString` needs the package `pg` (node-postgres) beside pg-locker",
      {
        cause,
      },
    );
  }
}
