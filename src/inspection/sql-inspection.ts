import { statement } from "../postgres/driver.ts";
import { descriptionStart } from "./lock-description.ts";

// The statements that list everybody's locks and end the session of a holder.

/**
 * Every advisory lock of the (bigint) space in this database, granted or waited for, with its session as far as PostgreSQL
 * shows it. Parameter: lock ids; null: all. Returns {@link SeenLock}s.
 *
 * A role that is not a member of `pg_read_all_stats` sees little more than the name of other roles' sessions
 * (https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-ACTIVITY-VIEW): their query is then
 * `<insufficient privilege>`, even if there is none. The session that asks is left out. A prepared transaction has no session; its locks
 * share a virtual transaction id with the lock on its own transaction id, which leads to its name.
 */
export const seenLocks = statement(`
select coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
         'id', lock.id::pg_catalog.text,
         'pid', lock.pid,
         'mode', case when lock.mode operator(pg_catalog.=) 'ShareLock' then 'shared' else 'exclusive' end,
         'granted', lock.granted,
         'waitStart', pg_catalog.to_json(lock.waitstart),
         'name', session.application_name,
         'user', coalesce(session.usename, prepared.owner),
         'hidden', coalesce(session.query operator(pg_catalog.=) '<insufficient privilege>', false),
         'host', case when session.pid is null or session.query operator(pg_catalog.=) '<insufficient privilege>' then null
                      else coalesce(pg_catalog.host(session.client_addr), 'local') end,
         'state', session.state,
         'sessionSince', pg_catalog.to_json(session.backend_start),
         'description', case when pg_catalog.starts_with(session.query, '${descriptionStart}') then session.query end,
         'activeAt', pg_catalog.to_json(coalesce(session.state_change, prepared.prepared)),
         'prepared', case when lock.pid is null then coalesce(prepared.gid, '') end)
         order by lock.id, lock.granted desc, session.backend_start, lock.pid), '[]')::pg_catalog.text
  from (select (classid::pg_catalog.int8 operator(pg_catalog.<<) 32) operator(pg_catalog.|) objid::pg_catalog.int8 as id, pid, mode, granted, waitstart,
               virtualtransaction
          from pg_catalog.pg_locks
         where locktype operator(pg_catalog.=) 'advisory' and objsubid operator(pg_catalog.=) 1
           and database operator(pg_catalog.=) (select oid from pg_catalog.pg_database
                            where datname operator(pg_catalog.=) pg_catalog.current_database())) as lock
  left join pg_catalog.pg_stat_activity as session on session.pid operator(pg_catalog.=) lock.pid
  left join lateral (
         select known.gid, known.owner, known.prepared
           from pg_catalog.pg_locks as own
           join pg_catalog.pg_prepared_xacts as known on known.transaction operator(pg_catalog.=) own.transactionid
          where lock.pid is null and own.pid is null and own.locktype operator(pg_catalog.=) 'transactionid'
            and own.virtualtransaction operator(pg_catalog.=) lock.virtualtransaction
          limit 1) as prepared on true
 where ($1::pg_catalog.int8[] is null or lock.id operator(pg_catalog.=) any ($1::pg_catalog.int8[]))
   and (lock.pid is null or lock.pid operator(pg_catalog.<>) pg_catalog.pg_backend_pid())`);

/** {@link seenLocks}, and whether the server is a standby, whose list says nothing about the primary's locks. Returns {@link SeenTable}. */
export const seenTable = statement(`
select pg_catalog.json_build_object(
         'standby', pg_catalog.pg_is_in_recovery(),
         'locks', (${seenLocks.text})::pg_catalog.json)::pg_catalog.text`);

export interface SeenTable {
  readonly standby: boolean;
  readonly locks: readonly SeenLock[];
}

export interface SeenLock {
  readonly id: string;
  /** The pid of the session's backend. Null if a prepared transaction has the lock. */
  readonly pid: number | null;
  readonly mode: "exclusive" | "shared";
  readonly granted: boolean;
  /** Since when it has waited inside the server, in PostgreSQL's JSON format for times; null if it doesn't wait. */
  readonly waitStart: string | null;
  /** The session's `application_name`. Null, like the columns after it, if the session has just ended. */
  readonly name: string | null;
  readonly user: string | null;
  /** Whether the server hides the fields that follow from this role. */
  readonly hidden: boolean;
  readonly host: string | null;
  readonly state: string | null;
  readonly sessionSince: string | null;
  readonly activeAt: string | null;
  /** The comment that describes the lock, if it is the session's last statement. */
  readonly description: string | null;
  /** The gid of the prepared transaction that has the lock; empty if it has just ended. Null: a session has the lock. */
  readonly prepared: string | null;
}

/**
 * Ends those of the given sessions that hold the lock when the statement runs. Parameters: lock id, backend pids. Returns the pids of the
 * sessions that were ended, as far as the server says.
 */
export const endSessions = statement(`
select coalesce(pg_catalog.json_agg(holder.pid), '[]')::pg_catalog.text
  from (select distinct pid
          from pg_catalog.pg_locks
         where locktype operator(pg_catalog.=) 'advisory' and objsubid operator(pg_catalog.=) 1 and granted
           and database operator(pg_catalog.=) (select oid from pg_catalog.pg_database
                            where datname operator(pg_catalog.=) pg_catalog.current_database())
           and classid operator(pg_catalog.=) (($1::pg_catalog.int8 operator(pg_catalog.>>) 32) operator(pg_catalog.&) 4294967295)::pg_catalog.oid
           and objid operator(pg_catalog.=) ($1::pg_catalog.int8 operator(pg_catalog.&) 4294967295)::pg_catalog.oid
           and pid operator(pg_catalog.=) any ($2::pg_catalog.int4[])
        offset 0) as holder
 where pg_catalog.pg_terminate_backend(holder.pid)`);
