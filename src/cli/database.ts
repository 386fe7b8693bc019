import pg from "pg";
import { setAskedDatabase } from "./asked-database.ts";
import type { Values } from "./command.ts";
import { type Clients, clientsOf } from "./connection/database-client.ts";
import { namedDatabase, usualTimeout } from "./connection/named-database.ts";
import type { Target } from "./connection/targets.ts";
import { usageFailure } from "./failure.ts";

/** A database that a command speaks to. */
export interface Database extends AsyncDisposable {
  readonly pool: pg.Pool;
}

/** Milliseconds that sessions have to end in, before their sockets are closed. */
const farewell = 1_000;

/**
 * The database that `--url`, else `DATABASE_URL`, else the variables of libpq name. If nothing names one, or with `--local`, the
 * PostgreSQL of the user's own on this machine, which is started if it doesn't run, and runs for as long as this is not disposed
 * of. Of a named one, no connection is made yet.
 *
 * Every connection has a bound, and so has the end: what a silent server doesn't end within a second is closed here.
 *
 * @param options.max how many connections at most; default 4
 * @param options.signal ends the wait for a server that starts, with the signal's own reason
 * @throws {Failure} if what names the database can't be used, or there is none and no PostgreSQL of the user's own can be had
 */
export async function connect(
  values: Values,
  { max = 4, signal }: { max?: number; signal?: AbortSignal } = {},
): Promise<Database> {
  if (values["local"] === true) {
    if (values["url"] !== undefined) throw usageFailure("Expected one of --local and --url, got both");
    return await localDatabase({ max, isQuiet: true, signal });
  }
  const named = namedDatabase(values);
  if (named === undefined) return await localDatabase({ max, isQuiet: false, signal });
  const { clients, config, database, user, namedBy } = named;
  setAskedDatabase(() => `${database} on ${placeOf(clients.target)}, as ${user} (${namedBy})`);
  return opened({ ...config, max }, clients);
}

/** The PostgreSQL of the user's own: no other machine shares its locks, and so it is said, unless it was asked for. */
async function localDatabase(options: {
  max: number;
  isQuiet: boolean;
  signal: AbortSignal | undefined;
}): Promise<Database> {
  const { max, isQuiet, signal } = options;
  // What it takes is loaded by those alone who use it.
  const { ownServer } = await import("./own-server/own-server.ts");
  const own = await ownServer({ signal, isQuiet });
  const { host, port, database } = own.config;
  const target = { host, address: host, port, ssl: false } as const;
  setAskedDatabase(() => `${database} on ${placeOf(target)} (the PostgreSQL of your own)`);
  const clients = clientsOf([target], { isPrimary: false, timeout: usualTimeout });
  const config = {
    ...own.config,
    max,
    connectionTimeoutMillis: usualTimeout,
    // Else node-postgres takes those of the environment, which are for another server.
    options: " ",
    sslnegotiation: "postgres",
  } as const;
  return opened(config, clients, () => own.leave());
}

function opened(config: pg.PoolConfig, clients: Clients, leave: () => void = () => {}): Database {
  const pool = new pg.Pool({ ...config, Client: clients.Client } as pg.PoolConfig);
  // What is lost meanwhile shows in the next statement.
  pool.on("error", () => {});
  return {
    pool,
    async [Symbol.asyncDispose]() {
      const late = setTimeout(() => clients.destroy(), farewell);
      await pool.end();
      clearTimeout(late);
      leave();
    },
  };
}

function placeOf({ host, port }: Target): string {
  if (host.startsWith("/")) return `${host} (port ${port})`;
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}
