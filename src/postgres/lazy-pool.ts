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

/**
 * A node-postgres pool that the locker makes itself. It loads the driver on the first connection, so an application that gives a pool, or
 * the `sql` of postgres.js, doesn't need `pg`.
 */
export class LazyPool implements Pool {
  readonly options: LazyPoolOptions;
  /** The class of the pool's clients; `undefined` until the driver is loaded. */
  Client: (new (options: object) => OwnClient) | undefined;
  readonly #listeners: Array<(pool: Pool) => void> = [];
  #pool: Pool | undefined;
  #loading: Promise<Pool> | undefined;
  #isEnded = false;

  constructor(options: LazyPoolOptions) {
    this.options = options;
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
    this.#isEnded = true;
    // A driver that was never needed isn't loaded only to end its pool.
    const pool = this.#pool ?? (await this.#loading?.catch(() => undefined));
    await pool?.end();
  }

  #load(): Promise<Pool> {
    this.#loading ??= this.#make();
    return this.#loading;
  }

  async #make(): Promise<Pool> {
    const { Pool, Client } = await loadNodePostgres();
    if (this.#isEnded) throw new Error("the pool has ended");
    this.Client = Client;
    const pool = new Pool(this.options);
    this.#pool = pool;
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
