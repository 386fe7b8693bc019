import type pg from "pg";
import { shortened } from "../contract/plain-text.ts";
import { setAskedDatabase } from "./asked-database.ts";
import type { Values } from "./command.ts";
import { type Clients, clientsOf } from "./connection/database-client.ts";
import { namedDatabase, usualTimeout } from "./connection/named-database.ts";
import type { Target } from "./connection/targets.ts";
import { usageFailure } from "./failure.ts";
import { expectPoolThread } from "./pool-thread.ts";

/** A database that a command connects to. */
export interface Database extends AsyncDisposable {
  readonly pool: pg.Pool;
}

/** Milliseconds in which sessions have to end before their sockets are closed. */
const farewell = 1_000;

/**
 * The database that is named by `--url`, else by `DATABASE_URL`, else by libpq's variables. If nothing names one, or with `--local`, it is
 * the user's own PostgreSQL on this machine, which is started if it isn't running, and kept running until this object is disposed of.
 * Connects only to the user's own; to a named database, the first statement connects.
 *
 * Connecting has a time limit, and so has the end: a connection that the server doesn't end within a second is closed here.
 *
 * @param options.max the maximum number of connections; default 4
 * @param options.signal ends the wait for a server that starts, with the signal's own reason
 * @throws {Failure} the setting that names the database can't be used; nothing names one, and the user's own can't be started; or the
 *   system allows too few threads
 */
export async function connect(
  values: Values,
  { max = 4, signal }: { max?: number; signal?: AbortSignal } = {},
): Promise<Database> {
  expectPoolThread();
  if (isLocal(values)) return await localDatabase({ max, isQuiet: true, signal });
  const named = namedDatabase(values);
  if (named === undefined) return await localDatabase({ max, isQuiet: false, signal });
  const driver = await loadDriver();
  const { config, database, user, namedBy } = named;
  const clients = clientsOf(driver, named);
  setAskedDatabase(
    () => `${shortened(database)} on ${placeOf(clients.target)}, as ${shortened(user)} (${namedBy})`,
  );
  return opened(driver, { ...config, max }, clients);
}

/** Whether `--local` is given. @throws {Failure} `--url` is given, too */
export function isLocal({ local, url }: Values): boolean {
  if (local !== true) return false;
  if (url !== undefined) throw usageFailure("Expected one of --local and --url, got both");
  return true;
}

/** The user's own PostgreSQL. Unless it was asked for, says that it is used, because no other machine shares its locks. */
async function localDatabase(options: {
  max: number;
  isQuiet: boolean;
  signal: AbortSignal | undefined;
}): Promise<Database> {
  const { max, isQuiet, signal } = options;
  const driver = await loadDriver();
  // Loaded only by the commands that use it.
  const { ownServer } = await import("./own-server/own-server.ts");
  const own = await ownServer({ signal, isQuiet });
  const { host, port, database } = own.config;
  const target = { host, address: host, port, ssl: false } as const;
  setAskedDatabase(() => `${database} on ${placeOf(target)} (your own PostgreSQL)`);
  const clients = clientsOf(driver, { targets: [target], isPrimary: false, timeout: usualTimeout });
  const config = {
    ...own.config,
    max,
    connectionTimeoutMillis: usualTimeout,
    // Without this, node-postgres would take the options in the environment, which are for another server.
    options: " ",
    sslnegotiation: "postgres",
  } as const;
  return opened(driver, config, clients, () => own.leave());
}

/** node-postgres. Loaded only to connect, because an application may not have installed it, and not every command needs it. */
export async function loadDriver(): Promise<typeof pg> {
  return (await import("pg")).default;
}

function opened(
  driver: typeof pg,
  config: pg.PoolConfig,
  clients: Clients,
  leave: () => void = () => {},
): Database {
  const pool = new driver.Pool({ ...config, Client: clients.Client } as pg.PoolConfig);
  // If a connection is lost, the next statement says so.
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
