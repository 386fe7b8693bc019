import { type Statement, statement } from "./driver.ts";
import { prepared } from "./sql.ts";
import { leaveWitness, takeWitness, takeWitnessInTransaction, witnessClass } from "./sql-witness.ts";

// What a server tells, to any role, about when its lock table was made; and a witness that dies with that table.

/** Every parameter is a text to the driver, as some drivers of a caller's transaction send a value in the type that the server infers. */
const text = (parameter: number): string => `$${parameter}::pg_catalog.text`;

/** The timeline that the server writes now: of eight hexadecimal digits. A promotion begins the next one at once. */
const timeline =
  "pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8)";

/**
 * The evidence, in the columns `started`, `reset`, `promoted` and `timeline`. Fails on a standby.
 *
 * - `started`: a restart makes the table anew, and so does the machine's.
 * - `reset`: a crash of one backend makes the table anew under the same postmaster, and throws the server's statistics away. Whoever
 *   resets those by hand makes the table look younger than it is, which is the safe side.
 * - `promoted`: at the latest. A promotion makes no table anew, but what was locked on the old primary is free on the new one. No
 *   server tells when it was promoted; but the first checkpoint of its timeline came later. Until there is one, `now`.
 *   Without WAL replayed since the start there was no promotion since, either; nor on the first timeline. The time of a checkpoint
 *   is in whole seconds.
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

/** Milliseconds since the latest of the evidence, by the server's clock; never negative, because a clock may have been set back. */
const age = `greatest(0, pg_catalog.floor(pg_catalog.extract('epoch', pg_catalog.clock_timestamp() operator(pg_catalog.-)
                   greatest(evidence.started, evidence.reset, evidence.promoted))
                 operator(pg_catalog.*) 1000))::pg_catalog.int8`;

/** Stays the same for as long as the table is the same, whatever the clocks do. Null if the server tells none of it. */
const tableName = `(pg_catalog.extract('epoch', evidence.started)::pg_catalog.text
                   operator(pg_catalog.||) ' ' operator(pg_catalog.||) pg_catalog.extract('epoch', evidence.reset)::pg_catalog.text
                   operator(pg_catalog.||) ' ' operator(pg_catalog.||) evidence.timeline)`;

/**
 * Whether a session that knows of the table's age has the witness, which it has as a shared lock. The list of locks is asked, and not a
 * try for the lock itself: two tries at once would refuse each other, and each take the other for a witness.
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
 * How old the lock table is, and whether it is old enough for a lock to be granted. If so, takes the witness: as a lock of the
 * session, or of the transaction that this is sent in. Nothing is done on a standby, nor if the backend is not the one that was
 * announced, because the session is then somebody else's as well.
 *
 * - The table that the asker knows is as old as it says, whatever the server's clock has done since.
 * - Any other table is, at the most, as old as it is since the asker saw the one before. One that claims to be older contradicts
 *   that (it belongs to another server, which was there all the while, or a clock was set), and its age is 0.
 * - The witness is asked only if the age is not enough: that goes through all locks of the server.
 *
 * Parameters: milliseconds that the table has to be old; the recovery grace in milliseconds; announced backend pid (null: not
 * checked); the table that the asker knows (null: none), its age, and how long ago it was seen, both in milliseconds. Returns
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

/** Asks a session how old the lock table is, and takes the witness if that is old enough. Returns {@link LockTableAnswer}. */
export const askLockTable: Statement = prepared("lock_table", askLockTableWith(takeWitness));

/** {@link askLockTable} for a transaction; not prepared, as nothing in a transaction is. */
export const askLockTableInTransaction: Statement = statement(askLockTableWith(takeWitnessInTransaction));

export interface LockTableAnswer {
  readonly pid: number;
  readonly standby: boolean;
  /** Null: not looked at. */
  readonly seen: {
    /** Null: the server keeps back when it was started, or had its statistics reset. */
    readonly table: string | null;
    /** Milliseconds. */
    readonly age: number;
    readonly isOld: boolean;
  } | null;
}

/** Gives up the witness of a session. Parameter: the recovery grace in milliseconds. */
export const dropWitness: Statement = prepared(
  "drop_witness",
  `select pg_catalog.to_json(${leaveWitness(text(1))})::pg_catalog.text`,
);

/** Dates the lock table for a person: what its age is counted from, and the age. Returns {@link LockTableDated}. */
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
  /** Milliseconds. */
  readonly age: number;
  /** `"reset"`: of the statistics, as by a crash; or by hand, or by the first start of a server. */
  readonly from: "start" | "reset" | "promotion";
  /** Whether the server has been promoted, and not restarted since: its age is then counted from its last checkpoint. */
  readonly isPromoted: boolean;
  /** Milliseconds at most between two checkpoints of a server that is written to. */
  readonly checkpointTimeout: number;
}
