import type { ClientConfig } from "pg";

/** A client's session, as `pg_stat_activity` shows it. */
export interface PostgresSession {
  readonly pid: number;
  readonly applicationName: string;
}

/** Who uses a server, apart from the session that asks. */
export interface PostgresUse {
  /** The version of the server, such as `18.4`. */
  readonly version: string;
  readonly since: Date;
  /** The clients' sessions in databases other than the one in which the question was asked. */
  readonly sessions: readonly PostgresSession[];
  /** How many sessions those databases have ever had. Grows with each session, however short. */
  readonly sessionsEver: bigint;
}

/**
 * Asks a server who uses it, in a session that ends with the answer. Ask in a database that nobody else uses, such as `template1`, so
 * that the question itself isn't counted. Needs PostgreSQL 14 or later, and the package `pg`.
 *
 * @throws Error of the driver, with the server's SQLSTATE or the system's code, also if there is no answer within 5 s
 */
export async function postgresUse(config: ClientConfig): Promise<PostgresUse> {
  const { default: pg } = await import("pg");
  const client = new pg.Client({ connectionTimeoutMillis: 5_000, query_timeout: 5_000, ...config });
  client.on("error", () => {}); // The current statement rejects with the error.
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

// PostgreSQL counts `sessions` when a session begins, and reports the count at the latest when the session ends.
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
