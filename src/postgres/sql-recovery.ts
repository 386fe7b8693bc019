import { type Statement, statement } from "./driver.ts";
import { prepared } from "./sql.ts";
import { leaveWitness, takeWitness, takeWitnessInTransaction, witnessClass } from "./sql-witness.ts";

// How old the server's lock table is, as far as the server tells any role; and the witness, a lock that vanishes with that table.

/** A parameter sent as a text, because the driver of a caller's transaction may send values in the type that the server infers. */
const text = (parameter: number): string => `$${parameter}::pg_catalog.text`;

/** The server's current timeline, in eight hexadecimal digits. A promotion begins the next timeline at once. */
const timeline =
  "pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)";

/**
 * The evidence for the lock table's age, in the columns `started`, `reset`, `promoted` and `timeline`. Fails on a standby.
 *
 * - `started`: when the server was started. A restart of the server or the machine creates a new table.
 * - `reset`: when the server's statistics were reset. A crash of one backend creates a new table under the same postmaster and discards
 *   the statistics. A reset by hand makes the table look younger than it is, which is safe.
 * - `promoted`: the latest time at which the server can have been promoted. A promotion creates no new table, but what was locked on the
 *   old primary is free on the new one. No server says when it was promoted, but the first checkpoint of its timeline came later, so
 *   that is used, and `now` until there is one. A server that has replayed no WAL since its start has not been promoted since, nor has
 *   one on the first timeline. The time of a checkpoint is in whole seconds.
 */
const evidence = `
       select pg_catalog.pg_postmaster_start_time() as started,
              pg_catalog.pg_stat_get_bgwriter_stat_reset_time() as reset,
              case when now_at.timeline operator(pg_catalog.=) '00000001'
                     or pg_catalog.pg_last_wal_replay_lsn() is null then null
                   else (select case when pg_catalog.lpad(pg_catalog.upper(pg_catalog.to_hex(control.timeline_id)), 8, '0')
                                          operator(pg_catalog.=) now_at.timeline
                                     then control.checkpoint_time operator(pg_catalog.+) '1 second'::pg_catalog.interval
                                     else pg_catalog.clock_timestamp() end
                           from pg_catalog.pg_control_checkpoint() as control) end as promoted,
              now_at.timeline
         from (select ${timeline} as timeline offset 0) as now_at`;

/** The age of the lock table: milliseconds since the latest evidence, by the server's clock; 0 if the clock was set back since. */
const age = `greatest(0, pg_catalog.floor(pg_catalog.extract('epoch', pg_catalog.clock_timestamp() operator(pg_catalog.-)
                   greatest(evidence.started, evidence.reset, evidence.promoted))
                 operator(pg_catalog.*) 1000))::pg_catalog.int8`;

/** A name for the lock table that stays the same as long as the table does, whatever the clocks do. Null if the server hides the facts. */
const tableName = `(pg_catalog.extract('epoch', evidence.started)::pg_catalog.text
                   operator(pg_catalog.||) ' ' operator(pg_catalog.||) pg_catalog.extract('epoch', evidence.reset)::pg_catalog.text
                   operator(pg_catalog.||) ' ' operator(pg_catalog.||) evidence.timeline)`;

/**
 * Whether some session holds the witness, a shared lock of sessions that know the table to be old enough. It reads the list of locks
 * instead of trying for the lock, because two simultaneous tries would refuse each other, and each would take the other for a witness.
 */
const isWitnessed = (grace: string): string => `exists (
                  select from pg_catalog.pg_lock_status() as held
                   where held.locktype operator(pg_catalog.=) 'advisory'
                     and held.granted
                     and held.mode operator(pg_catalog.=) 'ShareLock'
                     and held.classid operator(pg_catalog.=) ${witnessClass}::pg_catalog.oid
                     and held.objid operator(pg_catalog.=) ${grace}::pg_catalog.int8::pg_catalog.oid
                     and held.objsubid operator(pg_catalog.=) 2
                     and held.database operator(pg_catalog.=) (
                           select oid from pg_catalog.pg_database
                            where datname operator(pg_catalog.=) pg_catalog.current_database()))`;

/**
 * How old the lock table is, and whether it is old enough for a lock to be granted. If it is, takes the witness, as a lock of the
 * session or of the transaction in which this is sent. Does nothing on a standby, nor if the backend is not the announced one, because
 * the session is then shared with others.
 *
 * - If the table is the one that the caller knows, its age is what the caller says, whatever the server's clock has done since.
 * - Any other table was created after the caller last saw the known one, so it can't be older than that. If it claims to be, it belongs
 *   to another server that existed all along, or a clock was set: its age then counts as 0.
 * - The witness is looked for only if the age is not enough, because that reads all locks of the server.
 *
 * Parameters: the age that is needed, in milliseconds; the recovery grace in milliseconds; announced backend pid (null: not
 * checked); the table that the caller knows (null: none), its age, and how long ago it was seen, both in milliseconds. Returns a
 * {@link LockTableAnswer}.
 */
const askLockTableWith = (take: (grace: string) => string): string => `
select pg_catalog.json_build_object(
         'pid', asked.pid,
         'standby', asked.standby,
         'seen', case when not asked.standby
                       and (${text(3)}::pg_catalog.int4 is null or asked.pid operator(pg_catalog.=) ${text(3)}::pg_catalog.int4) then (
           select pg_catalog.json_build_object(
                    'table', judged.name,
                    'age', judged.age,
                    'isOld', judged.is_old,
                    'witness', case when judged.is_old then ${take(text(2))} end)
             from (select dated.name, dated.age,
                          case when dated.name is null or dated.is_contradicted then false
                               when dated.age operator(pg_catalog.>=) ${text(1)}::pg_catalog.int8 then true
                               else ${isWitnessed(text(2))} end as is_old
                     from (select named.name, named.is_contradicted,
                                  case when named.is_known then ${text(5)}::pg_catalog.int8
                                       when named.is_contradicted then 0
                                       else least(named.claimed, ${text(6)}::pg_catalog.int8) end as age
                             from (select claims.name, claims.claimed,
                                          claims.name operator(pg_catalog.=) ${text(4)} is true as is_known,
                                          claims.name operator(pg_catalog.<>) ${text(4)} is true
                                          and claims.claimed operator(pg_catalog.>) (${text(6)}::pg_catalog.int8
                                                operator(pg_catalog.+) ${text(6)}::pg_catalog.int8 operator(pg_catalog./) 100
                                                operator(pg_catalog.+) 1000) as is_contradicted
                                     from (select ${tableName} as name, ${age} as claimed
                                             from (${evidence}) as evidence
                                           offset 0) as claims) as named) as dated
                   offset 0) as judged) end)::pg_catalog.text as answer
  from (select pg_catalog.pg_backend_pid() as pid, pg_catalog.pg_is_in_recovery() as standby offset 0) as asked`;

/** Asks how old the lock table is, and makes the session a witness if it is old enough. Returns a {@link LockTableAnswer}. */
export const askLockTable: Statement = prepared("lock_table", askLockTableWith(takeWitness));

/** {@link askLockTable} for a transaction: not prepared, like every statement that is sent in a transaction. */
export const askLockTableInTransaction: Statement = statement(askLockTableWith(takeWitnessInTransaction));

export interface LockTableAnswer {
  readonly pid: number;
  readonly standby: boolean;
  /** What was found. Null: nothing was done. */
  readonly seen: {
    /** The name of the lock table. Null: the server hides when it was started or its statistics were reset. */
    readonly table: string | null;
    /** The age of the table in milliseconds. */
    readonly age: number;
    readonly isOld: boolean;
  } | null;
}

/** Gives up the witness of a session. Parameter: the recovery grace in milliseconds. */
export const dropWitness: Statement = prepared(
  "drop_witness",
  `select pg_catalog.to_json(${leaveWitness(text(1))})::pg_catalog.text`,
);

/** The age of the lock table, and the event from which it is counted, for display. Returns {@link LockTableDated}. */
export const dateLockTable: Statement = statement(`
select pg_catalog.json_build_object(
         'age', ${age},
         'from', case when evidence.promoted is not null
                       and evidence.promoted operator(pg_catalog.>=) greatest(evidence.started, evidence.reset) then 'promotion'
                      when evidence.reset operator(pg_catalog.>) evidence.started then 'reset'
                      else 'start' end,
         'isPromoted', evidence.promoted is not null,
         'checkpointTimeout', (pg_catalog.extract('epoch', pg_catalog.current_setting('checkpoint_timeout')::pg_catalog.interval)
                               operator(pg_catalog.*) 1000)::pg_catalog.int8)::pg_catalog.text
  from (${evidence}) as evidence`);

export interface LockTableDated {
  /** The age of the table in milliseconds. */
  readonly age: number;
  /** The event from which the age is counted. `"reset"`: the statistics were reset, by a crash, by hand or on the server's first start. */
  readonly from: "start" | "reset" | "promotion";
  /** Whether the server has been promoted and not restarted since. The age is then counted from the last checkpoint. */
  readonly isPromoted: boolean;
  /** The longest time between two checkpoints of a server that is written to, in milliseconds. */
  readonly checkpointTimeout: number;
}
