import type pg from "pg";

/** Parameters that the library sets on a session, or must not change, each with a value that is not its default. */
export const ownSettings = [
  ["idle_session_timeout", "600000"],
  ["tcp_keepalives_idle", "77"],
  ["tcp_keepalives_interval", "11"],
  ["tcp_keepalives_count", "5"],
  ["tcp_user_timeout", "123456"],
] as const;

/** The settings of a session, times in milliseconds (those of TCP in their own units), and its `pid`. */
export async function sessionSettings(on: pg.Pool | pg.PoolClient): Promise<Record<string, unknown>> {
  // `current_setting` shows some times with a unit, and `setting` doesn't show those of TCP.
  const { rows } = await on.query<{ pid: number; all: Record<string, string> }>(
    `select pg_backend_pid() as pid,
            json_object_agg(name, case when name like 'tcp%' then current_setting(name) else setting end) as all
       from pg_settings
      where name like 'tcp%' or name like '%timeout' or name like 'default_transaction%'
         or name in ('application_name', 'synchronous_commit')`,
  );
  return { ...rows[0]?.all, pid: rows[0]?.pid };
}
