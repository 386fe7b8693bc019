import type { LockMode } from "../contract/locker.ts";
import { type Statement, statement } from "./driver.ts";
import { mayUseBlocks, serverStart } from "./sql.ts";
import { listed } from "./sql-transaction.ts";

// The statements of a lock on the caller's own session: they take it, release it and look for it, and leave the session's settings
// alone. None is prepared, because the caller may deallocate prepared statements. The driver sends every parameter as a text.

const text = (parameter: number): string => `$${parameter}::pg_catalog.text`;

/** The session's own locks with the id that is in a parameter. */
const own = (id: string): string => `${listed(id)}
                       and listed.granted
                       and listed.pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()`;

/**
 * Takes the lock or is refused, without waiting in the server. Parameters: lock id; the announced backend (null: not checked). Returns
 * a {@link TryClientAnswer}.
 *
 * It does nothing, and `granted` is null, on a standby, if the backend is not the announced one, or if the session already has the lock
 * in either mode or in a transaction, because the server would grant it a second time.
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
  /** When the server was started, in the form of `DrawAnswer`. */
  readonly server: string;
  readonly lockTimeout: string;
  /** After a refusal: whether the role may run a PL/pgSQL block, which catches the error of a wait that ends without the lock. */
  readonly blocks: boolean | null;
}

/**
 * Whether the session has the lock. Parameters: lock id; a `lock_timeout` to set until the end of the transaction, if there is one (null:
 * left as it is). Returns a {@link LookClientAnswer}.
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

/** Releases the lock. Parameter: lock id. Returns an {@link UnlockClientAnswer}. */
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
