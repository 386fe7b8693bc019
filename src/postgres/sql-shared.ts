import type { LockMode } from "../contract/locker.ts";
import type { Statement } from "./driver.ts";
import {
  currentSettings,
  prepared,
  restoreSettings,
  serverStart,
  setHolderSettings,
  setLinkTimeouts,
} from "./sql.ts";

// The statements of a session that carries many locks.

/** An operation on one lock. It is a single letter, because one statement may carry a thousand of them. */
export type Operation = "x" | "s" | "u" | "v" | "p" | "j";

export const taking: Record<LockMode, Operation> = { exclusive: "x", shared: "s" };
export const freeing: Record<LockMode, Operation> = { exclusive: "u", shared: "v" };
export const proving: Operation = "p";
/** Adds a holder to a shared lock that the session has. Refused if a writer waits, as the server would refuse another session. */
export const joining: Operation = "j";

/** Whether it changes nothing in the server. */
export function isProof(operation: Operation): boolean {
  return operation === proving || operation === joining;
}

export function isTaking(operation: Operation): boolean {
  return operation === taking.exclusive || operation === taking.shared;
}

export function isFreeing(operation: Operation): boolean {
  return operation === freeing.exclusive || operation === freeing.shared;
}

/**
 * The answer to one operation. `t` or `f`: whether the lock was granted or proved. `1` or `0`: the lock is free now, and whether it was
 * held before. `undefined`: the operation was not carried out.
 */
export type OperationAnswer = "t" | "f" | "0" | "1" | undefined;

/**
 * The ids in this database for which somebody waits in exclusive mode. Reads all locks of the server, once for each statement.
 * `pg_lock_status()` takes no lock itself, while `pg_locks` and `pg_database` would.
 */
const awaitedByWriters = `
                select (waiting.classid::pg_catalog.int8 operator(pg_catalog.<<) 32)
                       operator(pg_catalog.|) waiting.objid::pg_catalog.int8
                  from pg_catalog.pg_lock_status() as waiting
                 where waiting.locktype operator(pg_catalog.=) 'advisory' and not waiting.granted
                   and waiting.mode operator(pg_catalog.=) 'ExclusiveLock'
                   and waiting.objsubid operator(pg_catalog.=) 1
                   and waiting.database operator(pg_catalog.=) (
                         select own.database from pg_catalog.pg_lock_status() as own
                          where own.locktype operator(pg_catalog.=) 'advisory'
                            and own.pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()
                          limit 1)`;

const granted = (taken: string): string => `case when ${taken} then 't' else 'f' end`;

const freed = (unlocked: string): string => `case when ${unlocked} then '1' else '0' end`;

const expressions: Record<Operation, (id: string) => string> = {
  x: (id) => granted(`pg_catalog.pg_try_advisory_lock(${id})`),
  s: (id) => granted(`pg_catalog.pg_try_advisory_lock_shared(${id})`),
  u: (id) => freed(`pg_catalog.pg_advisory_unlock(${id})`),
  v: (id) => freed(`pg_catalog.pg_advisory_unlock_shared(${id})`),
  p: () => "'t'",
  // The server would let a session take its own lock again, ahead of everybody who waits.
  j: (id) => `case when ${id} operator(pg_catalog.=) any (array(${awaitedByWriters})) then 'f' else 't' end`,
};

/**
 * The common part of every statement: proves the session as `prove` does, and sets its time-out before any lock is taken.
 *
 * Parameters: `idle_session_timeout`, then those of the operations. Returns a text for {@link readSharedAnswer}, which costs the server
 * a tenth less than JSON.
 */
/* @__NO_SIDE_EFFECTS__ */
function frame(what: string, answers: string): Statement {
  return prepared(
    what,
    `
select pg_catalog.concat_ws(' ', pg_catalog.pg_backend_pid(), pg_catalog.pg_is_in_recovery(),
         coalesce(done.answers, '-'), pg_catalog.current_setting('application_name'))
  from (select case when pg_catalog.pg_is_in_recovery() then null
                    when pg_catalog.set_config('idle_session_timeout', $1, false) is not null
                    then ${answers} end as answers
        offset 0) as done`,
  );
}

export interface SharedAnswer {
  readonly pid: number;
  readonly standby: boolean;
  readonly name: string;
  /** One {@link OperationAnswer} for each operation, in their order; null: none was carried out. */
  readonly answers: string | null;
}

/**
 * The answers to `count` operations, if the session is on a primary, with that backend and that `application_name`; otherwise
 * `undefined`. Every answer is checked by it, so nothing is parsed: see {@link readSharedAnswer}.
 */
export function expectedAnswers(
  text: string,
  { beginning, end }: ExpectedFrame,
  count: number,
): string | undefined {
  const isExpected =
    text.length === beginning.length + count + end.length && text.startsWith(beginning) && text.endsWith(end);
  return isExpected ? text.slice(beginning.length, beginning.length + count) : undefined;
}

/** What stands around the answers of a session that is still the one that was opened. */
export interface ExpectedFrame {
  readonly beginning: string;
  readonly end: string;
}

export function expectedFrame({ pid, name }: { pid: number; name: string }): ExpectedFrame {
  return { beginning: `${pid} f `, end: ` ${name}` };
}

/** Parses an answer. @param text such as `4242 f tt1 pg-locker 7 (shared)`; a dash for the answers if nothing was done */
export function readSharedAnswer(text: string): SharedAnswer {
  const [pid = "", standby = "", answers = ""] = text.split(" ", 3);
  return {
    pid: Number(pid),
    standby: standby === "t",
    answers: answers === "-" ? null : answers,
    name: text.slice(pid.length + standby.length + answers.length + 3),
  };
}

/* @__NO_SIDE_EFFECTS__ */
function alone(operation: Operation): Statement {
  return frame(`shared_${operation}`, expressions[operation]("$2::pg_catalog.int8"));
}

/** The statement for a single operation, which is cheaper than the one for several. Further parameter: lock id. */
export const forOne: Readonly<Record<Operation, Statement>> = {
  x: alone("x"),
  s: alone("s"),
  u: alone("u"),
  v: alone("v"),
  p: alone("p"),
  j: alone("j"),
};

/**
 * The statement for several operations, carried out in the order given: the rows of a function are evaluated one by one, and an array
 * made from a query's rows keeps their order. Further parameters: lock ids; as many letters. The letters are an array, because to
 * reach the last character of a text the server walks all those before it.
 */
export const forSeveral: Statement = together();

/* @__NO_SIDE_EFFECTS__ */
function together(): Statement {
  const cases = (Object.keys(expressions) as Operation[]).map(
    (letter) =>
      `when operation.letter operator(pg_catalog.=) '${letter}' then ${expressions[letter]("operation.id")}`,
  );
  return frame(
    "shared_batch",
    `pg_catalog.array_to_string(array(
              select case ${cases.join("\n                          ")} end
                from rows from (pg_catalog.unnest($2::pg_catalog.int8[]), pg_catalog.unnest($3::pg_catalog."char"[]))
                     as operation(id, letter)), '')`,
  );
}

/**
 * Prepares a session to carry locks, overriding the settings of its role. Sets nothing on a standby, nor if the backend is not the
 * announced one, because the session is then shared with others.
 *
 * Parameters: announced backend pid (null: not checked), `application_name`, the TCP keepalive in seconds, `tcp_user_timeout` in
 * milliseconds (null for both: left as they are). Returns {@link OpenSharedAnswer}.
 */
export const openShared = prepared(
  "open_shared",
  `
select pg_catalog.json_build_object(
         'pid', pg_catalog.pg_backend_pid(),
         'standby', pg_catalog.pg_is_in_recovery(),
         'server', ${serverStart},
         'before', case when opened.fit then opened.before end,
         'set', case when opened.fit then pg_catalog.concat(
           pg_catalog.set_config('idle_session_timeout', '0', false),
           ${setHolderSettings("$2")},
           case when $3::pg_catalog.text is not null then pg_catalog.concat(
           ${setLinkTimeouts("$3", "$4")}) end) end)::pg_catalog.text
  from (select not pg_catalog.pg_is_in_recovery()
               and ($1::pg_catalog.int4 is null or pg_catalog.pg_backend_pid() operator(pg_catalog.=) $1) as fit,
               pg_catalog.json_build_array(
                 pg_catalog.current_setting('idle_session_timeout'),
           ${currentSettings({ enforced: true })}) as before
        offset 0) as opened`,
);

export interface OpenSharedAnswer {
  readonly pid: number;
  readonly standby: boolean;
  /** When the server was started, in the form of `DrawAnswer`. */
  readonly server: string;
  readonly before: readonly string[] | null;
}

/** Restores the settings that {@link openShared} found. Parameters: the `before` of its answer. */
export const closeShared = prepared(
  "close_shared",
  `
select pg_catalog.json_build_array(
         ${restoreSettings({ enforced: true }, 1)})::pg_catalog.text`,
);

/**
 * The ids of the session's locks, as strings. Used after a statement that failed half-way. It calls `pg_lock_status()` and doesn't read
 * `pg_database`: if the lock table is full, reading that table would fail, because it needs a lock too.
 */
export const ownLocks = prepared(
  "own_locks",
  `
select coalesce(pg_catalog.json_agg(((classid::pg_catalog.int8 operator(pg_catalog.<<) 32) operator(pg_catalog.|) objid::pg_catalog.int8)::pg_catalog.text), '[]')::pg_catalog.text
  from pg_catalog.pg_lock_status()
 where locktype operator(pg_catalog.=) 'advisory' and granted and objsubid operator(pg_catalog.=) 1 and pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()`,
);
