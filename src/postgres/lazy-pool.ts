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

/** What is needed of the package. */
interface NodePostgres {
  readonly Pool: new (options: LazyPoolOptions) => Pool;
  readonly Client: new (options: object) => OwnClient;
}

/**
 * A pool of node-postgres that is the locker's own. The driver is loaded with the first connection: whoever brings a pool, or the `sql`
 * of another driver, does without.
 */
export class LazyPool implements Pool {
  readonly options: LazyPoolOptions;
  /** The class of its clients, once the driver is loaded. */
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
        // A connection string that can't be read.
        failed(error);
      }
    }, failed);
  }

  /** @throws {Error} it is not installed */
  async loadDriver(): Promise<void> {
    await this.#load();
  }

  async end(): Promise<void> {
    this.#isEnded = true;
    // One that was never wanted isn't loaded for its end.
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

/** @throws {Error} it is not installed */
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
