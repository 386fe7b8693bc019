import { statement } from "./driver.ts";

// Statements that read the server's list of locks and take none.

const advisoryHere = `lock.locktype operator(pg_catalog.=) 'advisory' and lock.granted and lock.objsubid operator(pg_catalog.=) 1
   and lock.database operator(pg_catalog.=) (select oid from pg_catalog.pg_database
                          where datname operator(pg_catalog.=) pg_catalog.current_database())
   and lock.classid::pg_catalog.int8 operator(pg_catalog.=)
         (($1::pg_catalog.int8 operator(pg_catalog.>>) 32) operator(pg_catalog.&) 4294967295)`;

/**
 * Which ids in a block of ids are locked, in either mode, by sessions or prepared transactions. Parameters: the smallest id, whose low
 * bits are zero; the number of those bits, at most 32. Returns {@link HeldInBlock}.
 */
export const heldInBlock = statement(`
select coalesce(pg_catalog.json_agg(distinct lock.objid::pg_catalog.int8 operator(pg_catalog.-)
         ($1::pg_catalog.int8 operator(pg_catalog.&) 4294967295)), '[]')::pg_catalog.text
  from pg_catalog.pg_locks as lock
 where ${advisoryHere}
   and (lock.objid::pg_catalog.int8 operator(pg_catalog.>>) $2::pg_catalog.int4) operator(pg_catalog.=)
         (($1::pg_catalog.int8 operator(pg_catalog.&) 4294967295) operator(pg_catalog.>>) $2::pg_catalog.int4)`);

/** The locked ids, as offsets from the smallest id of the block. */
export type HeldInBlock = number[];

/**
 * The holder of an exclusive lock. Parameter: the lock id. Returns at most one {@link SoleHolder}. If the session belongs to another
 * role, PostgreSQL shows only its pid (https://www.postgresql.org/docs/current/monitoring-stats.html#MONITORING-PG-STAT-ACTIVITY-VIEW).
 */
export const soleHolder = statement(`
select coalesce(pg_catalog.json_agg(pg_catalog.json_build_object(
         'pid', lock.pid,
         'host', case when session.backend_start is not null
                      then coalesce(pg_catalog.host(session.client_addr), 'local') end,
         'since', pg_catalog.to_json(session.backend_start))), '[]')::pg_catalog.text
  from pg_catalog.pg_locks as lock
  left join pg_catalog.pg_stat_activity as session on session.pid operator(pg_catalog.=) lock.pid
 where ${advisoryHere}
   and lock.objid::pg_catalog.int8 operator(pg_catalog.=) ($1::pg_catalog.int8 operator(pg_catalog.&) 4294967295)
   and lock.mode operator(pg_catalog.=) 'ExclusiveLock'`);

export interface SoleHolder {
  /** The pid of the holder's backend. Null: a prepared transaction has the lock. */
  readonly pid: number | null;
  /** The address of the holder's host. Null: hidden from this role. */
  readonly host: string | null;
  /** When the holder's session was opened, in PostgreSQL's JSON format for times. Null: hidden from this role. */
  readonly since: string | null;
}
