// The library, but that a locker reaches the database over postgres.js where a test gives it a pool of node-postgres: see
// vitest.config.ts.
import type pg from "pg";
import postgres from "postgres";
import { PostgresLocker as OverNodePostgres, type PostgresLockerOptions } from "../../src/index.ts";
import { givenPools } from "./shown-postgres-js-pool.ts";

// biome-ignore lint/performance/noReExportAll: a stand-in for all of it
export * from "../../src/index.ts";

export class PostgresLocker extends OverNodePostgres {
  constructor(options: PostgresLockerOptions) {
    const { pool, ...rest } = options ?? {};
    super(isPool(pool) ? { ...rest, sql: sqlLike(pool) } : options);
  }
}

/** What is none is for the locker to refuse. */
function isPool(value: unknown): value is pg.Pool {
  return typeof value === "object" && value !== null && "options" in value;
}

/** As the pool connects. */
function sqlLike(pool: pg.Pool): postgres.Sql {
  const { options } = pool;
  const sql = postgres(options.connectionString ?? "", {
    max: options.max,
    onnotice: () => {},
    connection: {
      ...(options.options && { options: options.options }),
      ...(options.application_name && { application_name: options.application_name }),
    },
    ...(options.connectionTimeoutMillis && { connect_timeout: options.connectionTimeoutMillis / 1_000 }),
  });
  givenPools.set(sql, pool);
  return sql;
}
