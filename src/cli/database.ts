import pg from "pg";
import type { Values } from "./command.ts";

/** The variables of libpq that say which server is meant, as node-postgres reads them. */
const serverVariables = ["PGHOST", "PGPORT", "PGDATABASE", "PGUSER"];

/** A database that a command speaks to. */
export interface Database extends AsyncDisposable {
  readonly pool: pg.Pool;
}

/**
 * The database that `--url`, else `DATABASE_URL`, else the variables of libpq name; else the PostgreSQL of the user's own on this
 * machine, which is started where it doesn't run, and runs for as long as this is not disposed of. Elsewhere, no connection is made
 * yet.
 *
 * @param options.max how many connections at most; default 4
 * @param options.signal ends the wait for a server that starts, with the signal's own reason
 * @throws {Failure} where the URL can't be read, or there is none and no PostgreSQL of the user's own can be had
 */
export async function connect(
  values: Values,
  { max = 4, signal }: { max?: number; signal?: AbortSignal } = {},
): Promise<Database> {
  const url = urlOf(values);
  const own = url === undefined && !isServerNamed() ? await startOwnServer(signal) : undefined;
  const pool = new pg.Pool({ max, ...(url !== undefined && poolConfig(url)), ...own?.config });
  // What is lost meanwhile shows in the next statement.
  pool.on("error", () => {});
  return {
    pool,
    async [Symbol.asyncDispose]() {
      await pool.end();
      own?.leave();
    },
  };
}

/** What it takes is loaded by those alone who use it. */
async function startOwnServer(signal: AbortSignal | undefined) {
  const { ownServer } = await import("./own-server/own-server.ts");
  return await ownServer({ signal });
}

function urlOf(values: Values): string | undefined {
  const given = values["url"] ?? process.env["DATABASE_URL"];
  return typeof given === "string" && given !== "" ? given : undefined;
}

function isServerNamed(): boolean {
  return serverVariables.some((name) => process.env[name]);
}

/** What is wrong with a URL is said without quoting it: there may be a password in it. */
function poolConfig(connectionString: string): pg.PoolConfig {
  return { connectionString };
}
