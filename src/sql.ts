import { type Statement, statement } from "./driver.ts";
import { lockId } from "./lock-id.ts";
import type { LockMode } from "./locker.ts";

/** A prepared statement's name must never stand for two texts, whatever versions of this library share a connection. */
function prepared(what: string, text: string): Statement {
  return statement(text, `pg_locker_${what}_${BigInt.asUintN(64, lockId(0, text)).toString(36)}`);
}

/**
 * Takes the lock or is refused, on a session of its own, in one round trip; the server is never asked to wait.
 *
 * Parameters: lock id, announced backend pid (null: not checked), `application_name` of a holder.
 * Answers {@link TryLockAnswer}.
 *
 * - Nothing is done on a standby (its locks exclude nobody on the primary) nor where the backend is not the one that was
 *   announced (a pooler stands between, and what is set would stay on somebody else's session): `granted` is null.
 * - CASE fixes the order of evaluation
 *   (https://www.postgresql.org/docs/current/sql-expressions.html#SYNTAX-EXPRESS-EVAL): the time-out that would end the
 *   session under its holder is off before the lock is asked for. The settings that only a holder needs come after.
 * - A refusal puts back what was set, so that the session can be returned at once.
 * - `offset 0` keeps the planner from pulling the inner select up, which would call its functions once per mention.
 * - One value of JSON is cheaper to read for the driver than eleven columns.
 */
const tryLockWith = (call: string): Statement =>
  prepared(
    "try_lock",
    `
select pg_catalog.json_build_object(
         'pid', attempt.pid,
         'standby', attempt.standby,
         'granted', attempt.granted,
         'before', case when attempt.granted then pg_catalog.json_build_array(
           attempt.idle_session_timeout,
           pg_catalog.current_setting('statement_timeout'),
           pg_catalog.current_setting('default_transaction_isolation'),
           pg_catalog.current_setting('application_name')) end,
         'set', case when attempt.granted then pg_catalog.concat(
           pg_catalog.set_config('statement_timeout', '0', false),
           pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
           pg_catalog.set_config('application_name', $3, false)) end,
         'put back', case when not attempt.granted then
           pg_catalog.set_config('idle_session_timeout', attempt.idle_session_timeout, false) end)::text
  from (select pg_catalog.pg_backend_pid() as pid,
               pg_catalog.pg_is_in_recovery() as standby,
               pg_catalog.current_setting('idle_session_timeout') as idle_session_timeout,
               case when pg_catalog.pg_is_in_recovery() or pg_catalog.pg_backend_pid() <> $2::int4 then null
                    when pg_catalog.set_config('idle_session_timeout', '0', false) is not null
                    then ${call} end as granted
        offset 0) as attempt`,
  );

export interface TryLockAnswer {
  readonly pid: number;
  readonly standby: boolean;
  /** Null: not tried. */
  readonly granted: boolean | null;
  /** Of a holder's session: what {@link unlock} puts back. */
  readonly before: SessionSettings | null;
}

/** `idle_session_timeout`, `statement_timeout`, `default_transaction_isolation` and `application_name`, in this order. */
export type SessionSettings = readonly string[];

export const tryLock: Record<LockMode, Statement> = {
  exclusive: tryLockWith("pg_catalog.pg_try_advisory_lock($1::int8)"),
  shared: tryLockWith("pg_catalog.pg_try_advisory_lock_shared($1::int8)"),
};

/**
 * Unlocks, and puts the session's settings back. Answers first whether it held the lock: the server warns where it did
 * not, and raises no error.
 *
 * Parameters: lock id, then {@link SessionSettings}.
 */
const unlockWith = (call: string): Statement =>
  prepared(
    "unlock",
    `
select pg_catalog.json_build_array(${call},
         pg_catalog.set_config('idle_session_timeout', $2, false),
         pg_catalog.set_config('statement_timeout', $3, false),
         pg_catalog.set_config('default_transaction_isolation', $4, false),
         pg_catalog.set_config('application_name', $5, false))::text`,
  );

export type UnlockAnswer = readonly [wasHeld: boolean, ...put: string[]];

export const unlock: Record<LockMode, Statement> = {
  exclusive: unlockWith("pg_catalog.pg_advisory_unlock($1::int8)"),
  shared: unlockWith("pg_catalog.pg_advisory_unlock_shared($1::int8)"),
};

/**
 * Proves that the session lives, is the same one and is not on a standby: a primary can be demoted under an open socket.
 * `application_name` is the mark that nothing was discarded: DISCARD ALL, which frees every lock of a session without a
 * word, takes it away as well. (A look into pg_locks would say more, for 0.4 ms with a thousand locks in the server.)
 *
 * Answers {@link ProveAnswer}.
 */
export const prove = prepared(
  "prove",
  `
select pg_catalog.json_build_object(
         'pid', pg_catalog.pg_backend_pid(),
         'standby', pg_catalog.pg_is_in_recovery(),
         'name', pg_catalog.current_setting('application_name'))::text`,
);

export interface ProveAnswer {
  readonly pid: number;
  readonly standby: boolean;
  readonly name: string;
}

/** Proves that a new session would be served, and by a primary. */
export const ping = statement("select pg_catalog.pg_is_in_recovery()");
