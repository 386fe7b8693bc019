import type { LockMode } from "../contract/locker.ts";
import { type Statement, statement } from "./driver.ts";
import { mayUseBlocks } from "./sql.ts";

// A transaction-level lock ends with its transaction, or with a rollback to a savepoint older than the lock. So does a setting that is
// local to the transaction. Each try therefore leaves a mark in such a setting: as long as the mark is there, so is the lock of that
// very try. `pg_locks` says only that the session has a lock with the id, which may be that of a later transaction.
//
// No statement is prepared, because behind a pooler in transaction mode another session serves the next transaction. Every parameter is
// sent as a text, because some drivers send values in the type that the server infers. Every function, operator and type is
// PostgreSQL's own, whatever the `search_path`.

/** The mark that a try leaves in a transaction. A branded type, so that nothing else can be put into a statement's text. */
export type Mark = string & { readonly isMark: unique symbol };

/** Makes a mark that no other try has. `timeout`: its `idle_in_transaction_session_timeout`, in milliseconds, if it sets one. */
export function newMark(timeout: string | null = null): Mark {
  return `${crypto.randomUUID()}${timeout === null ? "" : `=${timeout}`};` as Mark;
}

/** The smallest time-out of the locks with these marks; null if none has one. */
const smallestTimeout = (marks: string): string => `(select pg_catalog.min(marked.timeout[1]::pg_catalog.int8)
                         from pg_catalog.regexp_matches(${marks}, '=([0-9]+);', 'g') as marked(timeout))`;

const marks = "pg_catalog.current_setting('pg_locker.transaction', true)";
const marked = (mark: string): string =>
  `coalesce(pg_catalog.strpos(${marks}, ${mark}) operator(pg_catalog.>) 0, false)`;
const setMarks = (to: string): string => `pg_catalog.set_config('pg_locker.transaction', ${to}, true)`;
const text = (parameter: number): string => `$${parameter}::pg_catalog.text`;
const setLocally = (name: string, to: string): string => `pg_catalog.set_config('${name}', ${to}, true)`;
/**
 * The time-out of an idle transaction is the smallest of those of its locks, in whatever order they end, and whatever client each call
 * has. What it was before the first of them is kept in a setting, too, for the last one to restore.
 */
const idleTimeout = "idle_in_transaction_session_timeout";
const idleTimeoutBefore = "pg_locker.idle_timeout";

/** The entries of `pg_locks` with a lock id. */
export const listed = (id: string): string => `pg_catalog.pg_locks as listed
                     where listed.locktype operator(pg_catalog.=) 'advisory'
                       and listed.objsubid operator(pg_catalog.=) 1::pg_catalog.int2
                       and listed.classid operator(pg_catalog.=)
                           ((${id} operator(pg_catalog.>>) 32) operator(pg_catalog.&) 4294967295)::pg_catalog.oid
                       and listed.objid operator(pg_catalog.=)
                           (${id} operator(pg_catalog.&) 4294967295)::pg_catalog.oid`;

/**
 * Begins a transaction in `read committed`, whatever the role's default. At a stricter level the first statement, which tries for the
 * lock, would fix the snapshot for all others, and it might predate what the last holder committed.
 */
export const begin = statement("begin isolation level read committed");
export const rollback = statement("rollback");
export const commit = statement("commit");

/** An empty statement, with which the server restarts the time-out of an idle transaction. */
export const keepAlive = statement("");

/**
 * Sent before {@link begin} if the driver doesn't say whether the session is already in a transaction. If it is, the mark stays;
 * otherwise the mark vanishes with this statement. Parameter: mark.
 */
export const probeTransaction = statement(`select pg_catalog.to_json(${setMarks(text(1))})::pg_catalog.text`);

// A savepoint surrounds everything done in a caller's transaction, so that after an error the transaction is as it was before.
export const savepoint = "savepoint pg_locker";
export const releaseSavepoint = "release savepoint pg_locker";
export const rollbackToSavepoint = "rollback to savepoint pg_locker";

/**
 * Takes the lock until the end of the transaction, or is refused, without waiting in the server.
 *
 * Parameters: lock id; mark; `idle_in_transaction_session_timeout`, in milliseconds (null: left as it is), unless another lock has a smaller
 * one; `lock_timeout` for a {@link waitForLock} that follows a refusal (null: none follows). Returns {@link TryAnswer}.
 *
 * - It does nothing, and `granted` is null, on a standby or if the session already has the lock in any way, because the server would
 *   grant it a second time.
 * - CASE fixes the order of evaluation: the time-out is set before the lock is tried.
 */
const tryTransactionLockWith = (mode: LockMode): string => `
select pg_catalog.json_build_object(
         'pid', pg_catalog.pg_backend_pid(),
         'standby', attempt.standby,
         'mine', attempt.mine,
         'granted', attempt.granted,
         'marks', attempt.marks,
         'before', pg_catalog.json_build_array(attempt.lock_timeout, attempt.statement_timeout),
         'marked', case when attempt.granted then ${setMarks(`pg_catalog.concat(attempt.marks, ${text(2)})`)} end,
         'readied', case when not attempt.granted and ${text(4)} is not null then pg_catalog.concat(
           ${setLocally("lock_timeout", text(4))},
           ${setLocally("statement_timeout", "'0'")}) end,
         'blocks', case when not attempt.granted then ${mayUseBlocks} end)::pg_catalog.text as answer
  from (select found.*,
               case when found.standby or found.mine then null
                    when case when ${text(3)} is null then true
                              else pg_catalog.concat(
                                case when ${smallestTimeout("found.marks")} is null
                                     then ${setLocally(idleTimeoutBefore, "found.idle_timeout")} end,
                                ${setLocally(idleTimeout, `least(${text(3)}::pg_catalog.int8, ${smallestTimeout("found.marks")})::pg_catalog.text`)}) is not null end
                    then ${tryCall[mode]}(found.id) end as granted
          from (select asked.id,
                       pg_catalog.pg_is_in_recovery() as standby,
                       ${marks} as marks,
                       pg_catalog.current_setting('lock_timeout') as lock_timeout,
                       pg_catalog.current_setting('statement_timeout') as statement_timeout,
                       pg_catalog.current_setting('idle_in_transaction_session_timeout') as idle_timeout,
                       exists (select from ${listed("asked.id")}
                       and listed.granted${mode === "shared" ? "\n                       and listed.mode operator(pg_catalog.=) 'ExclusiveLock'" : ""}
                       and listed.pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()) as mine
                  from (select ${text(1)}::pg_catalog.int8 as id offset 0) as asked
                offset 0) as found
        offset 0) as attempt`;

const tryCall: Record<LockMode, string> = {
  exclusive: "pg_catalog.pg_try_advisory_xact_lock",
  shared: "pg_catalog.pg_try_advisory_xact_lock_shared",
};

export interface TryAnswer {
  readonly pid: number;
  readonly standby: boolean;
  /** Whether the session itself has a lock with the id that excludes this one. */
  readonly mine: boolean;
  /** Null: not tried. */
  readonly granted: boolean | null;
  /** The previous value of the setting that holds the marks; not empty if the transaction contains another try of this library. */
  readonly marks: string | null;
  /** The settings as they were before, for {@link lookAfterWait} to restore. */
  readonly before: readonly [lockTimeout: string, statementTimeout: string];
  /** After a refusal: whether the role may run a PL/pgSQL block, which {@link waitForLock} needs. */
  readonly blocks: boolean | null;
}

export const tryTransactionLock: Record<LockMode, Statement> = {
  exclusive: statement(tryTransactionLockWith("exclusive")),
  shared: statement(tryTransactionLockWith("shared")),
};

/**
 * Waits for the lock inside the server, for at most `lock_timeout`. Returns nothing: whether the mark is set says whether the lock was
 * granted.
 *
 * The block is a subtransaction. If its wait ends by the time-out or by a cancellation, the error is caught there, so the transaction
 * goes on and the server logs nothing. A lock that is granted at that moment is undone with the subtransaction, and so is the mark.
 * Every other error, such as a deadlock (40P01), fails the transaction.
 *
 * A block takes no parameters, so a 64-bit id and a mark are put into its text, and nothing else.
 */
export function waitForLock(wanted: { id: bigint; mode: LockMode; mark: Mark }): string {
  return `
do language plpgsql $pg_locker$
begin
  perform ${waitCall(wanted)};
  perform ${setMarks(`pg_catalog.concat(${marks}, '${wanted.mark}')`)};
exception when lock_not_available or query_canceled then null;
end $pg_locker$`;
}

/** {@link waitForLock} without a PL/pgSQL block: a wait that ends without the lock fails the transaction, or its savepoint. */
export function waitForLockPlainly(wanted: { id: bigint; mode: LockMode; mark: Mark }): string {
  return `
select pg_catalog.to_json(${setMarks(`pg_catalog.concat(${marks}, '${wanted.mark}')`)})::pg_catalog.text as answer
  from (select ${waitCall(wanted)} offset 0) as waited`;
}

const waitCall = ({ id, mode }: { id: bigint; mode: LockMode }): string =>
  `pg_catalog.pg_advisory_xact_lock${mode === "shared" ? "_shared" : ""}('${id}'::pg_catalog.int8)`;

/**
 * Whether a wait was granted the lock. If so, restores two settings. Parameters: mark, `lock_timeout`, `statement_timeout`.
 */
export const lookAfterWait = statement(`
select pg_catalog.json_build_object(
         'held', look.held,
         'put', case when look.held then pg_catalog.concat(
           ${setLocally("lock_timeout", text(2))},
           ${setLocally("statement_timeout", text(3))}) end)::pg_catalog.text as answer
  from (select ${marked(text(1))} as held offset 0) as look`);

/**
 * Whether the transaction still has the lock. If so, removes the mark and, if the lock had a time-out, sets that of the locks that are
 * left, or restores what it was before them. Parameter: mark.
 */
export const lookAtEnd = statement(`
select pg_catalog.json_build_object(
         'held', look.held,
         'put', case when look.held then pg_catalog.concat(
           ${setMarks("look.others")},
           case when ${smallestTimeout(text(1))} is not null
                then ${setLocally(idleTimeout, `coalesce(${smallestTimeout("look.others")}::pg_catalog.text, pg_catalog.current_setting('${idleTimeoutBefore}'))`)} end) end)::pg_catalog.text as answer
  from (select ${marked(text(1))} as held, pg_catalog.replace(${marks}, ${text(1)}, '') as others offset 0) as look`);

export interface LookAnswer {
  readonly held: boolean;
}

/**
 * Commits if the transaction still has the lock. It is one message, so that nothing can come in between: without the mark, the first
 * statement fails with {@link lockHasGone}, and the server doesn't run the second.
 */
export function commitUnderLock(mark: Mark): string {
  return `
select case when ${marked(`'${mark}'`)} then 'held'
            else pg_catalog.current_setting('pg_locker.the_lock_has_gone') end;
commit`;
}

/** SQLSTATE of the first statement of {@link commitUnderLock} if the mark is gone: there is no setting of that name. */
export const lockHasGone = "42704";
/** SQLSTATE of a statement in a transaction that has failed and can only be rolled back. */
export const hasFailed = "25P02";
/** SQLSTATE of a savepoint outside a transaction. */
export const noTransaction = "25P01";
/** SQLSTATE with which PostgreSQL ends the session of a transaction that was idle for too long. */
export const idleTooLong = "25P03";
export const deadlockDetected = "40P01";

/**
 * Cancels the statement of another session if it is waiting for the lock at this moment. Parameters: the session's pid, lock id.
 * Returns whether it was cancelled.
 */
export const cancelWaiter = statement(`
select pg_catalog.to_json(case when exists (select from ${listed("waiter.id")}
                       and not listed.granted
                       and listed.pid operator(pg_catalog.=) waiter.pid)
              then pg_catalog.pg_cancel_backend(waiter.pid) else false end)::pg_catalog.text as answer
  from (select ${text(1)}::pg_catalog.int4 as pid, ${text(2)}::pg_catalog.int8 as id offset 0) as waiter`);
