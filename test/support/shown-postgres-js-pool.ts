import type pg from "pg";
import { PostgresJsPool as OwnPool } from "../../src/postgres/postgres-js-pool.ts";

// Takes the place of the library's own pool over postgres.js: see vitest.config.ts.

/** The pool that a test gave, by the `sql` that replaced it. */
export const givenPools = new WeakMap<object, pg.Pool>();

/** Shows its connections on the pool that it replaces: they are counted there, and its events are emitted there. */
export class PostgresJsPool extends OwnPool {
  readonly #given: pg.Pool | undefined;

  constructor(sql: ConstructorParameters<typeof OwnPool>[0]) {
    super(sql);
    this.#given = givenPools.get(sql);
    if (this.#given === undefined) return;
    count(this.#given, this);
    for (const event of ["connect", "remove"]) this.on(event, (client) => this.#tell(event, client));
  }

  override connect(callback: Parameters<OwnPool["connect"]>[0]): void {
    super.connect((error, client, release) => {
      if (client === undefined || release === undefined) return callback(error, client, release);
      this.#tell("acquire", client);
      callback(error, client, (destroy) => {
        this.#tell("release", undefined, client);
        release(destroy);
      });
    });
  }

  #tell(event: string, ...about: unknown[]): void {
    this.#given?.emit(event as "connect", ...(about as [pg.PoolClient]));
  }
}

const inPlaceOf = new WeakMap<pg.Pool, OwnPool[]>();

/** Adds a pool's connections to those that a given pool counts. */
function count(given: pg.Pool, own: OwnPool): void {
  const known = inPlaceOf.get(given);
  if (known !== undefined) {
    known.push(own);
    return;
  }
  const all = [own];
  inPlaceOf.set(given, all);
  for (const name of ["totalCount", "idleCount", "waitingCount"] as const) {
    const get = (): number =>
      all.reduce((sum, pool) => sum + pool[name], Reflect.get(Object.getPrototypeOf(given), name, given));
    Object.defineProperty(given, name, { get });
  }
}
