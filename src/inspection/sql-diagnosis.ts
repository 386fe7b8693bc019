import { statement } from "../postgres/driver.ts";
import { durable, fencingToken } from "../postgres/sql.ts";

// The statements of a diagnosis. Each returns one JSON value, reads only what every role may read, and leaves nothing behind.

/** Asks for the server's version. Returns {@link VersionAnswer}. */
export const askVersion = statement(`
select pg_catalog.json_build_object(
         'number', pg_catalog.current_setting('server_version_num')::pg_catalog.int4,
         'name', pg_catalog.current_setting('server_version'))::pg_catalog.text`);

export interface VersionAnswer {
  /** The version as a number, such as 180004. */
  readonly number: number;
  readonly name: string;
}

/** The server's clock at this moment, not at the beginning of the transaction: milliseconds since 1970. */
export const askClock = statement(
  "select pg_catalog.to_json(extract(epoch from pg_catalog.clock_timestamp()) operator(pg_catalog.*) 1000)::pg_catalog.text",
);

/**
 * The values of settings in this session, as inherited from the server, the database and the role. Settings that the server doesn't know
 * are left out. Parameter: their names. Returns {@link SettingsAnswer}.
 */
export const askSettings = statement(`
select coalesce(pg_catalog.json_object_agg(name, pg_catalog.json_build_object(
         'value', setting, 'source', source)), '{}')::pg_catalog.text
  from pg_catalog.pg_settings
 where name operator(pg_catalog.=) any ($1::pg_catalog.text[])`);

export type SettingsAnswer = Readonly<
  Record<string, { readonly value: string; readonly source: string } | undefined>
>;

/**
 * How full the server's lock table is. It calls `pg_lock_status()`, which takes no lock itself, because the answer is needed most when
 * the table is full.
 *
 * The table has an entry for each locked object. A second table, twice as long, has one for each session that locks it. Fast-path locks
 * are in neither, and predicate locks have a table of their own. Returns {@link LockTableUse}.
 */
export const askLockTableUse = statement(`
select pg_catalog.json_build_object(
         'used', greatest(
           pg_catalog.count(distinct pg_catalog.json_build_array(locktype, database, relation, page, tuple,
             virtualxid, transactionid, classid, objid, objsubid)::pg_catalog.text),
           pg_catalog.count(*) operator(pg_catalog./) 2),
         'advisory', pg_catalog.count(*) filter (where locktype operator(pg_catalog.=) 'advisory'),
         'room', pg_catalog.current_setting('max_locks_per_transaction')::pg_catalog.int8
           operator(pg_catalog.*) (pg_catalog.current_setting('max_connections')::pg_catalog.int8
            operator(pg_catalog.+) pg_catalog.current_setting('max_prepared_transactions')::pg_catalog.int8))::pg_catalog.text
  from pg_catalog.pg_lock_status()
 where not fastpath and mode operator(pg_catalog.<>) 'SIReadLock'`);

export interface LockTableUse {
  readonly used: number;
  readonly advisory: number;
  /** How many locks the server has reserved memory for. It can use some more memory that is free elsewhere. */
  readonly room: number;
}

/**
 * How many connections there are besides this one, and how many are allowed; -1: no limit. A role without privileges can't see the
 * `backend_type` of others' sessions, but it sees their database, which the server's own processes don't have. The limit of a role or
 * of a database doesn't apply to superusers. Returns {@link ConnectionsAnswer}.
 */
export const askConnections = statement(`
select pg_catalog.json_build_object(
         'server', pg_catalog.json_build_array(seen.of_server,
           pg_catalog.current_setting('max_connections')::pg_catalog.int4
           operator(pg_catalog.-) pg_catalog.current_setting('superuser_reserved_connections')::pg_catalog.int4
           operator(pg_catalog.-) coalesce(pg_catalog.current_setting('reserved_connections', true)::pg_catalog.int4, 0)),
         'role', pg_catalog.json_build_array(seen.of_role,
           case when role.rolsuper then -1 else role.rolconnlimit end),
         'database', pg_catalog.json_build_array(seen.of_database,
           case when role.rolsuper then -1 else database.datconnlimit end))::pg_catalog.text
  from (select pg_catalog.count(*) as of_server,
               pg_catalog.count(*) filter (where usename operator(pg_catalog.=) session_user) as of_role,
               pg_catalog.count(*) filter (where datname operator(pg_catalog.=) pg_catalog.current_database()) as of_database
          from pg_catalog.pg_stat_activity
         where pid operator(pg_catalog.<>) pg_catalog.pg_backend_pid()
           and (backend_type operator(pg_catalog.=) 'client backend' or backend_type is null and datid is not null)) as seen,
       pg_catalog.pg_roles as role,
       pg_catalog.pg_database as database
 where role.rolname operator(pg_catalog.=) session_user and database.datname operator(pg_catalog.=) pg_catalog.current_database()`);

/** The connections besides this one, and their limit; -1: no limit. */
type Counted = readonly [used: number, limit: number];

export interface ConnectionsAnswer {
  readonly server: Counted;
  readonly role: Counted;
  readonly database: Counted;
}

/** Sets, for this statement only, the settings with which the server enforces a TTL. Returns their new values in a list. */
export const tryEnforcing = statement(`
select pg_catalog.json_build_array(
         pg_catalog.set_config('idle_session_timeout', '60000', true),
         pg_catalog.set_config('tcp_keepalives_idle', '15', true),
         pg_catalog.set_config('tcp_keepalives_interval', '15', true),
         pg_catalog.set_config('tcp_keepalives_count', '3', true),
         pg_catalog.set_config('tcp_user_timeout', '60000', true))::pg_catalog.text`);

/** The functions that a fencing token needs and the role may not call: a list of names. */
export const askFencing = statement(`
select coalesce(pg_catalog.json_agg(missing.name), '[]')::pg_catalog.text
  from (select needed.name
          from pg_catalog.unnest(array[
                 'pg_logical_emit_message', 'pg_walfile_name', 'pg_current_xact_id']) as needed(name)
          left join pg_catalog.pg_proc as known
            on known.proname operator(pg_catalog.=) needed.name and known.pronamespace operator(pg_catalog.=) 'pg_catalog'::pg_catalog.regnamespace
         group by needed.name
        having not coalesce(pg_catalog.bool_and(pg_catalog.has_function_privilege(known.oid, 'execute'))
                 filter (where not 'bytea'::pg_catalog.regtype::pg_catalog.oid operator(pg_catalog.=) any (known.proargtypes)), false)) as missing`);

/** Draws a fencing token, as the statement that takes a lock does. Returns once the token is durable. */
export const tryDrawing = statement(`
select pg_catalog.json_build_array(${durable}, ${fencingToken})::pg_catalog.text`);

/** Cancels the statement of a backend of the same role. Parameter: its pid. Returns whether the backend was signalled. */
export const cancelBackend = statement(`
select pg_catalog.to_json(pg_catalog.pg_cancel_backend($1::pg_catalog.int4))::pg_catalog.text`);

/** Whose sessions the role may see and end. Returns {@link PrivilegesAnswer}. */
export const askPrivileges = statement(`
select pg_catalog.json_build_object(
         'role', session_user,
         'superuser', rolsuper,
         'sees', pg_catalog.pg_has_role('pg_read_all_stats', 'usage'),
         'ends', pg_catalog.pg_has_role('pg_signal_backend', 'usage'))::pg_catalog.text
  from pg_catalog.pg_roles
 where rolname operator(pg_catalog.=) current_user`);

export interface PrivilegesAnswer {
  readonly role: string;
  readonly superuser: boolean;
  readonly sees: boolean;
  readonly ends: boolean;
}
