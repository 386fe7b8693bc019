import { randomBytes } from "node:crypto";
import pg from "pg";
import { afterAll, afterEach, beforeEach, inject } from "vitest";
import { until } from "./until.ts";

// Importing this file gives the test file a database of its own. Advisory locks are per database, so all rows of `pg_locks` for it belong
// to this file, and after each test there must be none. The database is dropped when the file is done.
//
// The leak check runs after the test's own `afterEach` hooks, but before `onTestFinished`: clean up with `await using`.

const name = `pg_locker_${randomBytes(8).toString("hex")}`;
const url = withDatabase(inject("serverUrl"), name);
const admin = new pg.Client({ connectionString: inject("serverUrl"), application_name: "test-admin" });
admin.on("error", () => {}); // The next query rejects with it.
await admin.connect();
await admin.query(`create database ${name}`);

const clients = new Set<pg.Client>();
const pools = new Set<pg.Pool>();
const poolsOfFile = new Set<pg.Pool>();
const checkedOut = new Set<pg.PoolClient>();
let inTest = false;

/** The connection string of this test file's database, as a superuser. */
export function databaseUrl(): string {
  return url;
}

/** The connection string of another database of the run's server, or of this one as another role. */
export function urlWith(part: { database?: string; user?: string; password?: string }): string {
  const other = new URL(part.database === undefined ? url : withDatabase(url, part.database));
  if (part.user !== undefined) {
    other.username = part.user;
    other.password = part.password ?? "";
  }
  return other.href;
}

/** A pool on this file's database, which is ended after the test; or after the file, if it was made outside of a test. */
export function createPool(config: pg.PoolConfig = {}): pg.Pool {
  const pool = new pg.Pool({ connectionString: url, ...config });
  pool.on("error", () => {}); // Tests end sessions on purpose; a test may add its own listener.
  pool.on("acquire", (client) => checkedOut.add(client));
  pool.on("release", (_error, client) => checkedOut.delete(client));
  pool.on("remove", (client) => checkedOut.delete(client));
  (inTest ? pools : poolsOfFile).add(pool);
  return pool;
}

/**
 * A pool with `max` connections that are already made, because a test with a short limit for the wait for one must not depend on how long a
 * busy machine takes to connect.
 */
export async function createOpenPool(config: pg.PoolConfig & { max: number }): Promise<pg.Pool> {
  const pool = createPool({ ...config, connectionTimeoutMillis: 0 });
  const clients = await Promise.all(Array.from({ length: config.max }, () => pool.connect()));
  for (const client of clients) client.release();
  pool.options.connectionTimeoutMillis = config.connectionTimeoutMillis ?? 0;
  return pool;
}

/** A client, with the pid of its session's backend, which the driver's types don't declare. */
export type Session = pg.Client & { readonly processID: number };

/** Connects a client to this file's database. The end of the test ends it, with its locks. */
export async function connect(config: pg.ClientConfig = {}): Promise<Session> {
  const client = new pg.Client({ connectionString: url, ...config }) as Session;
  client.on("error", () => {});
  await client.connect();
  clients.add(client);
  return client;
}

/** Runs a statement on a session that no test ends or blocks, in the server's own database. */
export async function onServer<R extends pg.QueryResultRow>(
  sql: string,
  values: unknown[] = [],
): Promise<R[]> {
  return (await admin.query<R>(sql, values)).rows;
}

/** Returns a key that no other test has. */
export function uniqueKey(prefix = "key"): string {
  return `${prefix}:${randomBytes(8).toString("hex")}`;
}

/** Returns a lock id that no other test has; half of them are negative. */
export function uniqueId(): bigint {
  return randomBytes(8).readBigInt64BE();
}

/** One row of `pg_locks`. */
export interface AdvisoryLock {
  /** In the space of bigint keys. For (int, int) it is the pair, packed. */
  readonly id: bigint;
  readonly space: "bigint" | "int-pair";
  readonly pid: number;
  readonly mode: "ExclusiveLock" | "ShareLock";
  /** `false` for a session that waits in the server. */
  readonly granted: boolean;
}

/** Every advisory lock in this file's database. */
export async function advisoryLocks(): Promise<AdvisoryLock[]> {
  const rows = await onServer<Omit<AdvisoryLock, "id"> & { id: string }>(
    `select ((classid::bigint << 32) | objid::bigint)::text as id, pid, mode, granted,
            case objsubid when 1 then 'bigint' else 'int-pair' end as space
       from pg_locks
      where locktype = 'advisory' and database = (select oid from pg_database where datname = $1)`,
    [name],
  );
  return rows.map((row) => ({ ...row, id: BigInt(row.id) }));
}

/** The pids of the sessions that were granted `id`, in this file's database. */
export async function holdersOf(id: bigint): Promise<number[]> {
  const locks = await advisoryLocks();
  return locks
    .filter((lock) => lock.id === id && lock.space === "bigint" && lock.granted)
    .map((lock) => lock.pid);
}

beforeEach(() => {
  inTest = true;
});

afterEach(async () => {
  inTest = false;
  const leaks: string[] = [];
  await Promise.all([...clients].map((client) => client.end().catch(() => {})));
  clients.clear();
  // A session's locks disappear with its backend, a moment after its client has gone.
  await until(async () => (await advisoryLocks()).length === 0, { deadline: 2000 }).catch(async () => {
    const locks = await advisoryLocks();
    const list = locks.map(
      (lock) => `${lock.id} (${lock.mode}, session ${lock.pid}, granted: ${lock.granted})`,
    );
    if (list.length > 0) leaks.push(`advisory locks left: ${list.join(", ")}`);
  });
  const inUse = () =>
    [...pools, ...poolsOfFile].reduce((sum, pool) => sum + pool.totalCount - pool.idleCount, 0);
  await until(() => inUse() === 0, { deadline: 2000 }).catch(() => {
    leaks.push(`clients still checked out of a pool: ${inUse()}`);
  });
  await endPools(pools);
  if (leaks.length > 0) throw new Error(`the test leaks: ${leaks.join("; ")}`);
});

afterAll(async () => {
  await endPools(poolsOfFile);
  await admin.query(`drop database if exists ${name} with (force)`);
  await admin.end();
});

async function endPools(some: Set<pg.Pool>): Promise<void> {
  for (const pool of some) {
    // end() waits for clients that are checked out. Leaked ones are destroyed, with their locks, so that the next test starts clean. The
    // listener is only added now, because a test must notice a missing one.
    if (pool.totalCount > pool.idleCount) {
      for (const client of checkedOut) {
        client.on("error", () => {});
        client.release?.(true); // A client of postgres.js has no release: it is a session of the locker's own.
      }
    }
    if (!pool.ending) await pool.end();
  }
  some.clear();
}

function withDatabase(connectionString: string, database: string): string {
  const changed = new URL(connectionString);
  changed.pathname = `/${database}`;
  return changed.href;
}

export interface RoleOptions {
  /** Parameters that each of its sessions begins with. Default: none. */
  readonly settings?: Readonly<Record<string, string>>;
  /** The maximum number of its sessions at a time. Default: any number. */
  readonly connectionLimit?: number;
  /** Whether the server asks it for its password, which is `secret`. Default: no, as for every other role. */
  readonly asksPassword?: boolean;
}

/** A role that may log in to this file's database, and nothing else. Disposing of it ends its sessions. */
export async function createRole(
  options: RoleOptions = {},
): Promise<AsyncDisposable & { readonly name: string; readonly url: string }> {
  const name = uniqueKey("role").replace(":", "_");
  await onServer(
    `create role ${name} login password 'secret' connection limit ${options.connectionLimit ?? -1}`,
  );
  if (options.asksPassword) {
    await onServer(
      "do $$ begin create role password_required; exception when duplicate_object or unique_violation then null; end $$",
    );
    await onServer(`grant password_required to ${name}`);
  }
  for (const [setting, value] of Object.entries(options.settings ?? {}))
    await onServer(`alter role ${name} set ${setting} = '${value}'`);
  return {
    name,
    url: urlWith({ user: name, password: "secret" }),
    [Symbol.asyncDispose]: async () => {
      await onServer("select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", [name]);
      await onServer(`drop role ${name}`);
    },
  };
}

/** Ends the one session that has been granted the lock, as an administrator would. */
export async function terminateHolder(id: bigint): Promise<void> {
  const pids = await holdersOf(id);
  if (pids.length !== 1) throw new Error(`the lock ${id} has ${pids.length} holders, not one`);
  await onServer("select pg_terminate_backend($1)", pids);
}
