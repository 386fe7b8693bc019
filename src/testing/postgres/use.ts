import type { ClientConfig } from "pg";

/** A session of a client, as `pg_stat_activity` shows it. */
export interface PostgresSession {
  readonly pid: number;
  readonly applicationName: string;
}

/** Who uses a server, beside the one who asks. */
export interface PostgresUse {
  /** The version of the server, such as `18.4`. */
  readonly version: string;
  readonly since: Date;
  /** The sessions of clients, in other databases than the one asked in. */
  readonly sessions: readonly PostgresSession[];
  /** How many there have been, in other databases than the one asked in: it grows with each, however short. */
  readonly sessionsEver: bigint;
}

/**
 * Asks a server who uses it, in a session that lasts as long as the question. Ask in a database that nobody else uses, such as
 * `template1`: then the question itself is not counted. PostgreSQL 14 or later; needs the package `pg`.
 *
 * @throws Error of the driver, with its SQLSTATE or that of the system; also when there is no answer within 5 s
 */
export async function postgresUse(config: ClientConfig): Promise<PostgresUse> {
  const { default: pg } = await import("pg");
  const client = new pg.Client({ connectionTimeoutMillis: 5_000, query_timeout: 5_000, ...config });
  client.on("error", () => {}); // The statement in hand rejects with it.
  await client.connect();
  try {
    const { rows } = await client.query<{
      version: string;
      since: Date;
      sessions: PostgresSession[];
      ever: string;
    }>(use);
    const [row] = rows;
    if (row === undefined) throw new Error("PostgreSQL answered without a row");
    const { version, since, sessions, ever } = row;
    return { version, since, sessions, sessionsEver: BigInt(ever) };
  } finally {
    await client.end();
  }
}

// `sessions` is counted when a session begins, and reported at the latest when it ends.
const use = `
  select pg_catalog.current_setting('server_version') as version,
         pg_catalog.pg_postmaster_start_time() as since,
         (select coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                   'pid', pid, 'applicationName', application_name) order by backend_start), '[]')
            from pg_catalog.pg_stat_activity
           where backend_type = 'client backend'
             and datname operator(pg_catalog.<>) pg_catalog.current_database()) as sessions,
         (select coalesce(pg_catalog.sum(sessions), 0)::pg_catalog.text
            from pg_catalog.pg_stat_database
           where datname operator(pg_catalog.<>) pg_catalog.current_database()) as ever`;
