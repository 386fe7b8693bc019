import pg from "pg";
import type { Values } from "./command.ts";
import { exitStatus } from "./exit-status.ts";
import { Failure } from "./failure.ts";

/** The variables of libpq that say which server is meant, as node-postgres reads them. */
const serverVariables = ["PGHOST", "PGPORT", "PGDATABASE", "PGUSER"];

/** A database that a command speaks to. */
export interface Database extends AsyncDisposable {
  readonly pool: pg.Pool;
}

/**
 * The database that `--url`, else `DATABASE_URL`, else the variables of libpq name; else the PostgreSQL of the user's own on this
 * machine, which is started where it doesn't run. No connection is made yet.
 *
 * @throws {Failure} where the URL can't be read, or there is none and no PostgreSQL of the user's own can be had
 */
export async function connect(values: Values, options: { max?: number } = {}): Promise<Database> {
  const url = urlOf(values);
  const pool = new pg.Pool({ max: 4, ...options, ...(url !== undefined && poolConfig(url)) });
  // What is lost meanwhile shows in the next statement.
  pool.on("error", () => {});
  return { pool, [Symbol.asyncDispose]: () => pool.end() };
}

function urlOf(values: Values): string | undefined {
  const given = values["url"] ?? process.env["DATABASE_URL"];
  if (typeof given === "string" && given !== "") return given;
  if (serverVariables.some((name) => process.env[name])) return undefined;
  throw new Failure(exitStatus.unavailable, "No database: give --url, or set DATABASE_URL or PGHOST");
}

/** What is wrong with a URL is said without quoting it: there may be a password in it. */
function poolConfig(connectionString: string): pg.PoolConfig {
  return { connectionString };
}
