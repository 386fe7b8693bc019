import type pg from "pg";
import postgres from "postgres";
import { PostgresLocker, type PostgresLockerOptions } from "../../src/index.ts";
import { createPool } from "./database.ts";
import { isOverPostgresJs } from "./driver.ts";
import { givenPools } from "./shown-postgres-js-pool.ts";

/**
 * A locker, which the test has to close. It has a pool of its own on this file's database, unless it is given another way to a database.
 *
 * In the row `postgres-js` of vitest.config.ts, it connects to its pool's database with postgres.js.
 */
export function createLocker(options: PostgresLockerOptions = {}): PostgresLocker {
  const { pool, ...rest } = options;
  const knowsItsWay = [rest.sql, rest.connectionString, rest.database].some((way) => way !== undefined);
  if (pool === undefined && knowsItsWay) return new PostgresLocker(options);
  const used = pool ?? createPool();
  return new PostgresLocker(
    isOverPostgresJs ? { ...rest, sql: sqlLike(used as unknown as pg.Pool) } : { ...rest, pool: used },
  );
}

/** Connects as the pool does; the pool shows the connections as its own. */
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
