import type { LockMode } from "../contract/locker.ts";
import { type Statement, statement } from "./driver.ts";
import { mayUseBlocks } from "./sql.ts";

// A lock in a transaction goes with that transaction, and with a rollback to a savepoint that is older than it. So does a
// setting that is local to the transaction: each try leaves a mark in one, and wherever the mark is, there the lock is, taken
// by that very try. `pg_locks` says only that the session has a lock with the id: it may be that of a later transaction.
//
// Nothing here is prepared: behind a pooler in transaction mode the next transaction is served by another session. Every
// parameter is a text to the driver, as some drivers send a value in the type that the server infers. Every function, operator
// and type is PostgreSQL's own, whatever the `search_path`.

/** What a try leaves in a transaction. A type of its own, so that no statement's text can contain anything else. */
export type Mark = string & { readonly isMark: unique symbol };

/** A mark that no other try has. */
export function newMark(): Mark {
  return `${crypto.randomUUID()};` as Mark;
}

const marks = "pg_catalog.current_setting('pg_locker.transaction', true)";
const marked = (mark: string): string =>
  `coalesce(pg_catalog.strpos(${marks}, ${mark}) operator(pg_catalog.>) 0, false)`;
const setMarks = (to: string): string => `pg_catalog.set_config('pg_locker.transaction', ${to}, true)`;
const text = (parameter: number): string => `$${parameter}::pg_catalog.text`;
const setLocally = (name: string, to: string): string => `pg_catalog.set_config('${name}', ${to}, true)`;

/** The locks of a lock id, in the list of the server. */
export const listed = (id: string): string => `pg_catalog.pg_locks as listed
                     where listed.locktype operator(pg_catalog.=) 'advisory'
                       and listed.objsubid operator(pg_catalog.=) 1::pg_catalog.int2
                       and listed.classid operator(pg_catalog.=)
                           ((${id} operator(pg_catalog.>>) 32) operator(pg_catalog.&) 4294967295)::pg_catalog.oid
                       and listed.objid operator(pg_catalog.=)
                           (${id} operator(pg_catalog.&) 4294967295)::pg_catalog.oid`;

/**
 * In `read committed`, whatever the role's default: if a transaction has one snapshot for all its statements, the one
 * that the try itself takes may be older than what the last holder committed.
 */
export const begin = statement("begin isolation level read committed");
export const rollback = statement("rollback");
export const commit = statement("commit");

/** Has the server hear of the session; outside of a statement, its time-out of an idle transaction begins anew. */
export const keepAlive = statement("");

/**
 * In front of {@link begin}, if the driver does not tell whether the session is in a transaction already: then the mark
 * stays. Outside of one it goes with this very statement. Parameter: mark.
 */
export const probeTransaction = statement(`select pg_catalog.to_json(${setMarks(text(1))})::pg_catalog.text`);

// Around all that is done in a transaction that is the caller's: whatever goes wrong, it is then as it was before.
export const savepoint = "savepoint pg_locker";
export const releaseSavepoint = "release savepoint pg_locker";
export const rollbackToSavepoint = "rollback to savepoint pg_locker";

/**
 * Takes the lock until the end of the transaction, or is refused; the server is not asked to wait.
 *
 * Parameters: lock id; mark; `idle_in_transaction_session_timeout`, in milliseconds (null: left as it is); `lock_timeout` for a
 * {@link waitForLock} that follows a refusal (null: none follows). Returns {@link TryAnswer}.
 *
 * - Nothing is done on a standby, nor if the session has the lock already, in whatever way: the server would grant it once
 *   more. `granted` is null then.
 * - CASE fixes the order of evaluation: the time-out is set before the lock is asked for.
 */
const tryTransactionLockWith = (mode: LockMode): string => `
select pg_catalog.json_build_object(
         'pid', pg_catalog.pg_backend_pid(),
         'standby', attempt.standby,
         'mine', attempt.mine,
         'granted', attempt.granted,
         'marks', attempt.marks,
         'before', pg_catalog.json_build_array(attempt.lock_timeout, attempt.statement_timeout, attempt.idle_timeout),
         'marked', case when attempt.granted then ${setMarks(`pg_catalog.concat(attempt.marks, ${text(2)})`)} end,
         'readied', case when not attempt.granted and ${text(4)} is not null then pg_catalog.concat(
           ${setLocally("lock_timeout", text(4))},
           ${setLocally("statement_timeout", "'0'")}) end,
         'blocks', case when not attempt.granted then ${mayUseBlocks} end)::pg_catalog.text as answer
  from (select found.*,
               case when found.standby or found.mine then null
                    when case when ${text(3)} is null then true
                              else ${setLocally("idle_in_transaction_session_timeout", text(3))} is not null end
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
  /** Whether the session has a lock with the id that excludes this one. */
  readonly mine: boolean;
  /** Null: not tried. */
  readonly granted: boolean | null;
  /** What stood in the setting of the marks before: something, if another try of ours is part of the transaction. */
  readonly marks: string | null;
  /** What was set: for {@link lookAfterWait} and {@link lookAtEnd}. */
  readonly before: readonly [lockTimeout: string, statementTimeout: string, idleTimeout: string];
  /** After a refusal: whether the role may run a block of code, which {@link waitForLock} is. */
  readonly blocks: boolean | null;
}

export const tryTransactionLock: Record<LockMode, Statement> = {
  exclusive: statement(tryTransactionLockWith("exclusive")),
  shared: statement(tryTransactionLockWith("shared")),
};

/**
 * Waits for the lock in the server, for as long as `lock_timeout` has it. Returns nothing: the mark tells.
 *
 * The block is a subtransaction. A wait that ends by its time-out or by a cancellation fails in there, and is caught: so the
 * transaction goes on, and the server's log has no line of it. A lock that was granted in that moment, and the mark, go with
 * the subtransaction. Every other error, such as a deadlock (40P01), is the transaction's.
 *
 * A block takes no parameters: an id of 64 bits, and a mark, are all that is put into the text.
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

/** {@link waitForLock} without a block of code: a wait that ends otherwise fails, with the transaction or the savepoint. */
export function waitForLockPlainly(wanted: { id: bigint; mode: LockMode; mark: Mark }): string {
  return `
select pg_catalog.to_json(${setMarks(`pg_catalog.concat(${marks}, '${wanted.mark}')`)})::pg_catalog.text as answer
  from (select ${waitCall(wanted)} offset 0) as waited`;
}

const waitCall = ({ id, mode }: { id: bigint; mode: LockMode }): string =>
  `pg_catalog.pg_advisory_xact_lock${mode === "shared" ? "_shared" : ""}('${id}'::pg_catalog.int8)`;

/**
 * Whether the lock was granted after all; if so, two settings are as they were. Parameters: mark, `lock_timeout`,
 * `statement_timeout`.
 */
export const lookAfterWait = statement(`
select pg_catalog.json_build_object(
         'held', look.held,
         'put', case when look.held then pg_catalog.concat(
           ${setLocally("lock_timeout", text(2))},
           ${setLocally("statement_timeout", text(3))}) end)::pg_catalog.text as answer
  from (select ${marked(text(1))} as held offset 0) as look`);

/**
 * Whether the lock is still that of the transaction; if so, the mark goes, and the time-out is as it was. Parameters: mark,
 * `idle_in_transaction_session_timeout` (null: it was not changed).
 */
export const lookAtEnd = statement(`
select pg_catalog.json_build_object(
         'held', look.held,
         'put', case when look.held then pg_catalog.concat(
           ${setMarks(`pg_catalog.replace(${marks}, ${text(1)}, '')`)},
           case when ${text(2)} is not null
                then ${setLocally("idle_in_transaction_session_timeout", text(2))} end) end)::pg_catalog.text as answer
  from (select ${marked(text(1))} as held offset 0) as look`);

export interface LookAnswer {
  readonly held: boolean;
}

/**
 * Commits, if the lock is still that of the transaction. It is one message, so that nothing comes in between: without the mark
 * the first statement fails, with {@link lockHasGone}, and then the server does not run the second.
 */
export function commitUnderLock(mark: Mark): string {
  return `
select case when ${marked(`'${mark}'`)} then 'held'
            else pg_catalog.current_setting('pg_locker.the_lock_has_gone') end;
commit`;
}

/** There is no setting of that name. */
export const lockHasGone = "42704";
/** A statement of the transaction had failed: all that it can do is to roll back. */
export const hasFailed = "25P02";
/** Outside of a transaction there is no savepoint. */
export const noTransaction = "25P01";
/** PostgreSQL ended the session of a transaction that was idle for too long. */
export const idleTooLong = "25P03";
export const deadlockDetected = "40P01";

/**
 * Cancels the statement of another session, if it waits for the lock at this moment. Parameters: its pid, lock id. Returns
 * whether it did.
 */
export const cancelWaiter = statement(`
select pg_catalog.to_json(case when exists (select from ${listed("waiter.id")}
                       and not listed.granted
                       and listed.pid operator(pg_catalog.=) waiter.pid)
              then pg_catalog.pg_cancel_backend(waiter.pid) else false end)::pg_catalog.text as answer
  from (select ${text(1)}::pg_catalog.int4 as pid, ${text(2)}::pg_catalog.int8 as id offset 0) as waiter`);
