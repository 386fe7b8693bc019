/**
 * How many statements the server has executed in this database, without the bench's own queries. It is exact: each statement is counted
 * when it ends, prepared or not, unless it fails. NaN if the server in `DATABASE_URL` has no pg_stat_statements.
 */
export async function statements(observer) {
  const { rows } = await observer.query("select from pg_extension where extname = 'pg_stat_statements'");
  if (rows.length === 0) return Number.NaN;
  const counted = await observer.query(
    `select coalesce(sum(calls), 0)::float8 as calls
       from pg_stat_statements join pg_database on pg_database.oid = dbid
      where datname = current_database()
        and query !~ 'pg_extension|pg_stat_statements|pg_stat_activity|from pg_locks'`,
  );
  return counted.rows[0].calls;
}
