// The library, but that a locker reaches the database over postgres.js where a test gives it a pool of node-postgres: see
// vitest.config.ts.
import type pg from "pg";
import postgres from "postgres";
import { PostgresLocker as OverNodePostgres, type PostgresLockerOptions } from "../../src/index.ts";

// biome-ignore lint/performance/noReExportAll: a stand-in for all of it
export * from "../../src/index.ts";

export class PostgresLocker extends OverNodePostgres {
  constructor(options: PostgresLockerOptions) {
    const { pool, ...rest } = options ?? {};
    super(pool === undefined ? options : { ...rest, sql: sqlLike(pool as unknown as pg.Pool) });
  }
}

/** As the pool connects. */
function sqlLike({ options }: pg.Pool): postgres.Sql {
  return postgres(options.connectionString ?? "", {
    max: options.max,
    onnotice: () => {},
    ...(options.options && { connection: { options: options.options } }),
    ...(options.connectionTimeoutMillis && { connect_timeout: options.connectionTimeoutMillis / 1_000 }),
  });
}
