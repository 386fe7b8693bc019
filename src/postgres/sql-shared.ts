import type { LockMode } from "../contract/locker.ts";
import type { Statement } from "./driver.ts";
import {
  asTheyAre,
  belt,
  durable,
  fencingToken,
  holderFit,
  nobodyWaits,
  prepared,
  putBack,
  toldUnlessNobodyWaits,
} from "./sql.ts";

// The statements of a session that carries many locks.

/** What a session is asked about one lock: a letter, for there may be a thousand in one statement. */
export type Operation = "x" | "s" | "u" | "v" | "w" | "z" | "p" | "j";

export const taking: Record<LockMode, Operation> = { exclusive: "x", shared: "s" };
export const freeing: Record<LockMode, Operation> = { exclusive: "u", shared: "v" };
/** Without a word to those who wait, for which the server needs room for one more lock. */
export const freeingUntold: Record<LockMode, Operation> = { exclusive: "w", shared: "z" };
export const proving: Operation = "p";
/** The same, for one more holder of a shared lock that the session has: it wants to know of those who wait. */
export const joining: Operation = "j";

/**
 * What each answers, a character: `t` or `f`, whether it was granted or proved; of a joining `w` instead, where somebody
 * elsewhere waits for the lock; `0` where the lock was not held, `1` where it
 * was and is free now, `2` where somebody who waits for it was told as well. `undefined`: it was not done.
 */
export type OperationAnswer = "t" | "w" | "f" | "0" | "1" | "2" | undefined;

const granted = (taken: string): string => `case when ${taken} then 't' else 'f' end`;

const freed = (unlocked: string, id?: string): string =>
  `case when not ${unlocked} then '0'${id === undefined ? "" : ` when ${toldUnlessNobodyWaits(id)} then '2'`} else '1' end`;

const expressions: Record<Operation, (id: string) => string> = {
  x: (id) => granted(`pg_catalog.pg_try_advisory_lock(${id})`),
  s: (id) => granted(`pg_catalog.pg_try_advisory_lock_shared(${id})`),
  u: (id) => freed(`pg_catalog.pg_advisory_unlock(${id})`, id),
  v: (id) => freed(`pg_catalog.pg_advisory_unlock_shared(${id})`, id),
  w: (id) => freed(`pg_catalog.pg_advisory_unlock(${id})`),
  z: (id) => freed(`pg_catalog.pg_advisory_unlock_shared(${id})`),
  p: () => "'t'",
  j: (id) => `case when ${nobodyWaits(id)} then 't' else 'w' end`,
};

/**
 * The frame of every statement: proves the session as `prove` does, sets the time-out of its lease before anything is taken,
 * and draws a fencing token after everything is: of two locks taken in one statement, the second may have had another
 * holder since the first was granted. One is drawn only where something was granted, or proved for one more holder.
 *
 * Parameters: `idle_session_timeout`, then those of the answers. Answers {@link SharedAnswer}.
 */
const frame = (what: string, answers: string, fenced: boolean): Statement =>
  prepared(
    what,
    `
select pg_catalog.json_build_object(
         'pid', pg_catalog.pg_backend_pid(),
         'standby', pg_catalog.pg_is_in_recovery(),
         'name', pg_catalog.current_setting('application_name'),
         'answers', done.answers,
         'token', ${fenced ? `case when done.answers like any (array['%t%', '%w%']) then ${fencingToken} end` : "null::text"})::text
  from (select case when pg_catalog.pg_is_in_recovery() then null
                    when pg_catalog.set_config('idle_session_timeout', $1, false) is not null
                     ${fenced ? `and ${durable}` : ""}
                    then ${answers} end as answers
        offset 0) as done`,
  );

export interface SharedAnswer {
  readonly pid: number;
  readonly standby: boolean;
  readonly name: string;
  /** An {@link OperationAnswer} for each, in the order of the operations; null: none was done. */
  readonly answers: string | null;
  readonly token: string | null;
}

/** One operation alone, without the price of many. Further parameter: lock id. */
const alone = (operation: Operation, fenced: boolean): Statement =>
  frame(`shared_${operation}`, expressions[operation]("$2::int8"), fenced);

/**
 * Several operations, done in the order given: the rows of a function are evaluated as they come, and `offset 0` keeps
 * anything from moving in between. Further parameters: lock ids; as many letters. An array of letters: to reach the last
 * character of a text, the server goes through all those before it.
 */
const together = (fenced: boolean): Statement =>
  frame(
    "shared_batch",
    `(
              select pg_catalog.string_agg(one.answer, '' order by one.at)
                from (select operation.at,
                             case operation.letter
                             ${(Object.keys(expressions) as Operation[])
                               .map(
                                 (letter) => `when '${letter}' then ${expressions[letter]("operation.id")}`,
                               )
                               .join("\n                             ")} end as answer
                        from rows from (pg_catalog.unnest($2::int8[]), pg_catalog.unnest($3::"char"[]))
                             with ordinality as operation(id, letter, at)
                      offset 0) as one)`,
    fenced,
  );

const made = new Map<string, Statement>();

/** The statement for some operations of one session; `fenced` where one of them wants a token. */
export function sharedStatement(operations: readonly Operation[], fenced: boolean): Statement {
  const [only] = operations;
  const one = operations.length === 1 && only !== undefined ? only : undefined;
  const known = `${one ?? ""}${fenced}`;
  const statement = made.get(known) ?? (one === undefined ? together(fenced) : alone(one, fenced));
  made.set(known, statement);
  return statement;
}

/**
 * Makes a session fit to carry locks, whatever its role has set. Where its backend is not the one that was announced,
 * nothing is set, for it is somebody else's session as well; nor on a standby.
 *
 * Parameters: announced backend pid (null: not checked), `application_name`, the seconds of TCP keepalive, the milliseconds
 * of `tcp_user_timeout` (null for both: left as they are). Answers {@link OpenSharedAnswer}.
 */
export const openShared = prepared(
  "open_shared",
  `
select pg_catalog.json_build_object(
         'pid', pg_catalog.pg_backend_pid(),
         'standby', pg_catalog.pg_is_in_recovery(),
         'before', case when opened.fit then opened.before end,
         'set', case when opened.fit then pg_catalog.concat(
           pg_catalog.set_config('idle_session_timeout', '0', false),
           ${holderFit("$2")},
           case when $3::text is not null then pg_catalog.concat(
           ${belt("$3", "$4")}) end) end)::text
  from (select not pg_catalog.pg_is_in_recovery()
               and ($1::int4 is null or pg_catalog.pg_backend_pid() = $1) as fit,
               pg_catalog.json_build_array(
                 pg_catalog.current_setting('idle_session_timeout'),
           ${asTheyAre({ enforced: true })}) as before
        offset 0) as opened`,
);

export interface OpenSharedAnswer {
  readonly pid: number;
  readonly standby: boolean;
  readonly before: readonly string[] | null;
}

/** Puts back what {@link openShared} found. Parameters: its `before`. */
export const closeShared = prepared(
  "close_shared",
  `
select pg_catalog.json_build_array(
         ${putBack({ enforced: true }, 1)})::text`,
);

/**
 * The ids of the locks that the session has, as strings: for after a statement that failed half-way. By the function, and
 * without a look at `pg_database`: where the lock table is full, a lock on that shared table is not to be had, either.
 */
export const ownLocks = prepared(
  "own_locks",
  `
select coalesce(pg_catalog.json_agg(((classid::int8 << 32) | objid::int8)::text), '[]')::text
  from pg_catalog.pg_lock_status()
 where locktype = 'advisory' and granted and objsubid = 1 and pid = pg_catalog.pg_backend_pid()`,
);
