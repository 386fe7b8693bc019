import type { LockMode } from "../contract/locker.ts";
import { type Statement, statement } from "./driver.ts";
import { mayUseBlocks, serverStart } from "./sql.ts";
import { listed } from "./sql-transaction.ts";

// A lock on a session that is the caller's: it is taken and given back, and looked for, and no setting is touched. Nothing here is
// prepared, as the caller may deallocate what it finds. Every parameter is a text to the driver.

const text = (parameter: number): string => `$${parameter}::pg_catalog.text`;

/** The locks of the session with the id of a parameter. */
const own = (id: string): string => `${listed(id)}
                       and listed.granted
                       and listed.pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()`;

/**
 * Takes the lock or is refused; the server is not asked to wait. Parameters: lock id; the backend that was announced (null: not
 * checked). Answers {@link TryClientAnswer}.
 *
 * Nothing is done on a standby, nor where the session has the lock already, in whatever way, because the server would grant it once
 * more; nor if the backend is another than was announced. `granted` is null then.
 */
const tryClientLockWith = (mode: LockMode): Statement =>
  statement(`
select pg_catalog.json_build_object(
         'pid', attempt.pid,
         'standby', attempt.standby,
         'mine', attempt.mine,
         'granted', attempt.granted,
         'server', ${serverStart},
         'lockTimeout', pg_catalog.current_setting('lock_timeout'),
         'blocks', case when not attempt.granted then ${mayUseBlocks} end)::pg_catalog.text as answer
  from (select found.*,
               case when found.standby or found.mine or found.pid operator(pg_catalog.<>) ${text(2)}::pg_catalog.int4 then null
                    else pg_catalog.pg_try_advisory_lock${mode === "shared" ? "_shared" : ""}(found.id) end as granted
          from (select asked.id,
                       pg_catalog.pg_backend_pid() as pid,
                       pg_catalog.pg_is_in_recovery() as standby,
                       exists (select from ${own("asked.id")}) as mine
                  from (select ${text(1)}::pg_catalog.int8 as id offset 0) as asked
                offset 0) as found
        offset 0) as attempt`);

export const tryClientLock: Record<LockMode, Statement> = {
  exclusive: tryClientLockWith("exclusive"),
  shared: tryClientLockWith("shared"),
};

export interface TryClientAnswer {
  readonly pid: number;
  readonly standby: boolean;
  readonly mine: boolean;
  /** Null: not tried. */
  readonly granted: boolean | null;
  /** As for a fencing token. */
  readonly server: string;
  readonly lockTimeout: string;
  /** Of a refusal: whether the role may run a block of code, in which a wait is caught that ends without the lock. */
  readonly blocks: boolean | null;
}

/**
 * Whether the session has the lock. Parameters: lock id; `lock_timeout`, which is set until the end of the transaction, if there is one
 * (null: left as it is). Answers {@link LookClientAnswer}.
 */
export const lookForClientLock = statement(`
select pg_catalog.json_build_object(
         'pid', pg_catalog.pg_backend_pid(),
         'standby', pg_catalog.pg_is_in_recovery(),
         'held', exists (select from ${own(`${text(1)}::pg_catalog.int8`)}),
         'put back', case when ${text(2)} is not null
                          then pg_catalog.set_config('lock_timeout', ${text(2)}, true) end)::pg_catalog.text as answer`);

export interface LookClientAnswer {
  readonly pid: number;
  readonly standby: boolean;
  readonly held: boolean;
}

/** Gives the lock back. Parameter: lock id. Answers {@link UnlockClientAnswer}. */
const unlockClientWith = (mode: LockMode): Statement =>
  statement(`
select pg_catalog.json_build_object(
         'held', pg_catalog.pg_advisory_unlock${mode === "shared" ? "_shared" : ""}(${text(1)}::pg_catalog.int8))::pg_catalog.text as answer`);

export const unlockClient: Record<LockMode, Statement> = {
  exclusive: unlockClientWith("exclusive"),
  shared: unlockClientWith("shared"),
};

export interface UnlockClientAnswer {
  readonly held: boolean;
}
