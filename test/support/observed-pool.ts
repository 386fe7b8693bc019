import type pg from "pg";
import { createPool } from "./database.ts";

export interface ObservedPool {
  readonly pool: pg.Pool;
  /** The clients that it has made, in order. */
  readonly clients: pg.PoolClient[];
  /** The clients that it has handed out, in order; a client that is handed out again is listed again. */
  readonly handedOut: pg.PoolClient[];
  /** The first argument of every `query()` on one of its clients: what is about to be sent. */
  readonly statements: unknown[];
}

/** The clients that a pool makes from now on, in order. */
export function clientsOf(pool: pg.Pool): Array<pg.PoolClient & { readonly processID: number }> {
  const clients: Array<pg.PoolClient & { readonly processID: number }> = [];
  pool.on("connect", (client) => clients.push(client as (typeof clients)[number]));
  return clients;
}

/** A pool on this file's database, with its clients and their statements. */
export function observedPool(config: pg.PoolConfig = {}): ObservedPool {
  const pool = createPool(config);
  const clients: pg.PoolClient[] = [];
  const handedOut: pg.PoolClient[] = [];
  const statements: unknown[] = [];
  pool.on("connect", (client) => {
    clients.push(client);
    const query = client.query.bind(client) as (...args: unknown[]) => unknown;
    (client as { query: unknown }).query = (...args: unknown[]) => {
      statements.push(args[0]);
      return query(...args);
    };
  });
  pool.on("acquire", (client) => handedOut.push(client));
  return { pool, clients, handedOut, statements };
}
