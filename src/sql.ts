import type { Statement } from "./driver.ts";
import { lockId } from "./lock-id.ts";
import type { LockMode } from "./locker.ts";

/** A prepared statement's name must never stand for two texts, whatever versions of this library share a connection. */
function prepared(what: string, text: string): Statement {
  return { name: `pg_locker_${what}_${BigInt.asUintN(64, lockId(0, text)).toString(36)}`, text };
}

/**
 * Takes the lock or is refused, on a session of its own, in one round trip; the server is never asked to wait.
 *
 * Parameters: lock id, announced backend pid (null: not checked), `application_name` of a holder.
 * Answers {@link tryLockColumns}.
 *
 * - Nothing is done on a standby (its locks exclude nobody on the primary) nor where the backend is not the one that was
 *   announced (a pooler stands between, and what is set would stay on somebody else's session): `granted` is null.
 * - CASE fixes the order of evaluation
 *   (https://www.postgresql.org/docs/current/sql-expressions.html#SYNTAX-EXPRESS-EVAL): the time-out that would end the
 *   session under its holder is off before the lock is asked for. The settings that only a holder needs come after.
 * - A refusal puts back what was set, so that the session can be returned at once.
 * - `offset 0` keeps the planner from pulling the inner select up, which would call its functions once per mention.
 */
const tryLockWith = (call: string): Statement =>
  prepared(
    "try_lock",
    `
select attempt.pid, attempt.standby, attempt.granted, attempt.idle_session_timeout,
       case when attempt.granted then pg_catalog.current_setting('statement_timeout') end,
       case when attempt.granted then pg_catalog.current_setting('default_transaction_isolation') end,
       case when attempt.granted then pg_catalog.current_setting('application_name') end,
       case when attempt.granted then pg_catalog.set_config('statement_timeout', '0', false) end,
       case when attempt.granted then pg_catalog.set_config('default_transaction_isolation', 'read committed', false) end,
       case when attempt.granted then pg_catalog.set_config('application_name', $3, false) end,
       case when not attempt.granted
            then pg_catalog.set_config('idle_session_timeout', attempt.idle_session_timeout, false) end
  from (select pg_catalog.pg_backend_pid() as pid,
               pg_catalog.pg_is_in_recovery() as standby,
               pg_catalog.current_setting('idle_session_timeout') as idle_session_timeout,
               case when pg_catalog.pg_is_in_recovery() or pg_catalog.pg_backend_pid() <> $2::int4 then null
                    when pg_catalog.set_config('idle_session_timeout', '0', false) is not null
                    then ${call} end as granted
        offset 0) as attempt`,
  );

export const tryLock: Record<LockMode, Statement> = {
  exclusive: tryLockWith("pg_catalog.pg_try_advisory_lock($1::int8)"),
  shared: tryLockWith("pg_catalog.pg_try_advisory_lock_shared($1::int8)"),
};

/** The settings that a holder's session had before, to be put back when it is returned. */
export interface SessionSettings {
  readonly idleSessionTimeout: string | null;
  readonly statementTimeout: string | null;
  readonly defaultTransactionIsolation: string | null;
  readonly applicationName: string | null;
}

/** Where the columns of {@link tryLock} stand. */
export const tryLockColumns = {
  pid: 0,
  standby: 1,
  granted: 2,
  idleSessionTimeout: 3,
  statementTimeout: 4,
  defaultTransactionIsolation: 5,
  applicationName: 6,
} as const;

/**
 * Unlocks, and puts the session's settings back. Answers whether it held the lock: the server warns where it did not,
 * and raises no error.
 *
 * Parameters: lock id, then the settings in the order of {@link SessionSettings}.
 */
const unlockWith = (call: string): Statement =>
  prepared(
    "unlock",
    `
select ${call},
       pg_catalog.set_config('idle_session_timeout', $2, false),
       pg_catalog.set_config('statement_timeout', $3, false),
       pg_catalog.set_config('default_transaction_isolation', $4, false),
       pg_catalog.set_config('application_name', $5, false)`,
  );

export const unlock: Record<LockMode, Statement> = {
  exclusive: unlockWith("pg_catalog.pg_advisory_unlock($1::int8)"),
  shared: unlockWith("pg_catalog.pg_advisory_unlock_shared($1::int8)"),
};

/**
 * Proves that the session lives, is the same one and is not on a standby: a primary can be demoted under an open socket.
 * `application_name` is the mark that nothing was discarded: DISCARD ALL, which frees every lock of a session without a
 * word, takes it away as well. (A look into pg_locks would say more, for 0.4 ms with a thousand locks in the server.)
 *
 * Answers pid, standby, application_name.
 */
export const prove = prepared(
  "prove",
  `
select pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(), pg_catalog.current_setting('application_name')`,
);

/** Proves that a new session would be served, and by a primary. */
export const ping = { text: "select pg_catalog.pg_is_in_recovery()" };
