import { statement } from "../postgres/driver.ts";

// The statements that look at the locks of everybody, and end the session of a holder.

/**
 * Every advisory lock of the (bigint) space in this database, granted or waited for, with its session as far as PostgreSQL
 * shows it. Parameter: lock ids; null: all. Answers {@link SeenLock}s.
 *
 * Of the sessions of others, a role that is no member of `pg_read_all_stats` sees the name and not much more
 * (https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-ACTIVITY-VIEW): their query is then
 * `<insufficient privilege>`, even where there is none. The session that asks is left out.
 */
export const seenLocks = statement(`
select coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
         'id', lock.id::text,
         'pid', lock.pid,
         'mode', case lock.mode when 'ShareLock' then 'shared' else 'exclusive' end,
         'granted', lock.granted,
         'waitStart', pg_catalog.to_json(lock.waitstart),
         'name', session.application_name,
         'user', session.usename,
         'hidden', coalesce(session.query = '<insufficient privilege>', false),
         'host', case when session.pid is null or session.query = '<insufficient privilege>' then null
                      else coalesce(pg_catalog.host(session.client_addr), 'local') end,
         'state', session.state,
         'sessionSince', pg_catalog.to_json(session.backend_start),
         'activeAt', pg_catalog.to_json(session.state_change))
         order by lock.id, lock.granted desc, session.backend_start, lock.pid), '[]')::text
  from (select (classid::int8 << 32) | objid::int8 as id, pid, mode, granted, waitstart
          from pg_catalog.pg_locks
         where locktype = 'advisory' and objsubid = 1
           and database = (select oid from pg_catalog.pg_database
                            where datname = pg_catalog.current_database())) as lock
  left join pg_catalog.pg_stat_activity as session on session.pid = lock.pid
 where ($1::int8[] is null or lock.id = any ($1::int8[]))
   and lock.pid <> pg_catalog.pg_backend_pid()`);

export interface SeenLock {
  readonly id: string;
  readonly pid: number;
  readonly mode: "exclusive" | "shared";
  readonly granted: boolean;
  /** As PostgreSQL writes a time for JSON. Only of those that wait inside the server. */
  readonly waitStart: string | null;
  /** `application_name`. Null, as all else of it, where the session has ended meanwhile. */
  readonly name: string | null;
  readonly user: string | null;
  /** Whether the server keeps back what follows. */
  readonly hidden: boolean;
  readonly host: string | null;
  readonly state: string | null;
  readonly sessionSince: string | null;
  readonly activeAt: string | null;
}

/**
 * Ends sessions that have a lock in this very statement, and no others. Parameters: lock id, backend pids. Answers the pids of
 * those that it had ended, as far as the server says.
 */
export const endSessions = statement(`
select coalesce(pg_catalog.json_agg(holder.pid), '[]')::text
  from (select distinct pid
          from pg_catalog.pg_locks
         where locktype = 'advisory' and objsubid = 1 and granted
           and database = (select oid from pg_catalog.pg_database
                            where datname = pg_catalog.current_database())
           and classid = (($1::int8 >> 32) & 4294967295)::oid
           and objid = ($1::int8 & 4294967295)::oid
           and pid = any ($2::int4[])
        offset 0) as holder
 where pg_catalog.pg_terminate_backend(holder.pid)`);
