import type { LockMode } from "../contract/locker.ts";
import { type Statement, statement } from "./driver.ts";
import { belt, durable, fencingToken, holderFit, mayUseBlocks, prepared } from "./sql.ts";
import { textLiteral } from "./sql-literal.ts";

// The statements of a session on which a caller waits for a lock inside the server.

/** How one wait is asked for. */
export interface WaitInServer {
  readonly id: bigint;
  readonly mode: LockMode;
  /** Milliseconds, at least 1: 0 would be no bound at all. */
  readonly bound: number;
  /** What `application_name` becomes; printable ASCII. */
  readonly name: string;
  /** `idle_session_timeout` of whoever is granted the lock. */
  readonly sessionTimeout: string;
  readonly fenced: boolean;
  /** Whether the session may use PL/pgSQL: see {@link OpenWaitingAnswer}. */
  readonly quiet: boolean;
  /** See {@link OpenWaiting.tag}. */
  readonly tag: string;
}

/**
 * One wait, as several statements in one message: a single round trip, and a single transaction of the server.
 *
 * - `lock_timeout` bounds it. The error that ends it, or ends it because of a cancel, is caught by the block, so the server's log
 *   gets no line. The settings are in the block as well, because a cancel may come that early; if the block fails they are as they
 *   were before. Without PL/pgSQL the plain statement waits, and each such end is a line in the log.
 * - Whether the lock was granted is asked afterwards, by a try: a grant that comes in the moment of the cancel outlives the
 *   block's rollback. A session takes its own lock again, so after a grant the lock is held twice:
 *   {@link releaseWaited} frees it whatever the count.
 * - A `do` block takes no parameters. The id is a number that only this function formats; the name is quoted.
 */
export function waitScript(wait: WaitInServer): string {
  const lock = `pg_catalog.pg_advisory_lock${suffix(wait.mode)}(${idLiteral(wait.id)})`;
  const waiting = wait.quiet
    ? `do $$ begin perform ${settings(wait)}; perform ${lock};
exception when lock_not_available or query_canceled then null; end $$`
    : `select ${settings(wait)}; select ${lock}`;
  return `${waiting};
${verdict(wait)}`;
}

/**
 * Whether the session has the lock after a {@link waitScript} that failed: its settings were rolled back, but a lock that was
 * granted was not.
 */
export function verdictScript(wait: WaitInServer): string {
  return `select ${settings(wait)};
${verdict(wait)}`;
}

const settings = (wait: WaitInServer): string =>
  `pg_catalog.set_config('lock_timeout', '${Math.ceil(wait.bound)}', false),
       pg_catalog.set_config('idle_session_timeout', '${wait.sessionTimeout}', false),
       pg_catalog.set_config('application_name', ${textLiteral(wait.name)}, false)`;

/** Prepared when the session is opened, because nothing should be parsed and planned between a grant and its answer. */
const verdict = (wait: WaitInServer): string => `execute ${verdictName(wait)}(${idLiteral(wait.id)})`;

function verdictName({ mode, fenced, tag }: Pick<WaitInServer, "mode" | "fenced" | "tag">): string {
  return `pg_locker_verdict${suffix(mode)}${fenced ? "_fenced" : ""}_${tag}`;
}

const verdictOf = (mode: LockMode, fenced: boolean): string => `
select pg_catalog.json_build_object(
         'pid', pg_catalog.pg_backend_pid(),
         'standby', pg_catalog.pg_is_in_recovery(),
         'name', pg_catalog.current_setting('application_name'),
         'granted', attempt.granted,
         'token', ${fenced ? `case when attempt.granted then ${fencingToken} end` : "null::pg_catalog.text"})::pg_catalog.text
  from (select case when pg_catalog.pg_try_advisory_lock${suffix(mode)}($1)
                    then ${fenced ? durable : "true"} else false end as granted
        offset 0) as attempt`;

export interface WaitAnswer {
  readonly pid: number;
  readonly standby: boolean;
  readonly name: string;
  readonly granted: boolean;
  readonly token: string | null;
}

/** Milliseconds after which the server ends a session that nobody uses, should its client's host have vanished. */
const idleAtMost = 60_000;

/**
 * Frees the lock that was waited for, however often the session has it, and makes the session fit for the next wait: without a
 * TTL of its own, and named by a parameter. Returns whether it was held. Further parameter: lock id.
 */
const releaseWaitedWith = (mode: LockMode): Statement =>
  prepared(
    "release_waited",
    `
select pg_catalog.json_build_array(freed.was_held,
         pg_catalog.pg_advisory_unlock_all()::pg_catalog.text,
         pg_catalog.set_config('idle_session_timeout', '${idleAtMost}', false),
         pg_catalog.set_config('application_name', $1, false))::pg_catalog.text
  from (select pg_catalog.pg_advisory_unlock${suffix(mode)}($2::pg_catalog.int8) as was_held
        offset 0) as freed`,
  );

export const releaseWaited: Record<LockMode, Statement> = {
  exclusive: releaseWaitedWith("exclusive"),
  shared: releaseWaitedWith("shared"),
};

export type ReleaseWaitedAnswer = readonly [wasHeld: boolean, ...others: unknown[]];

export interface OpenWaiting {
  /** The backend that was announced; absent: not checked. */
  readonly announcedPid: number | undefined;
  /** `application_name` */
  readonly name: string;
  /** Letters and digits that no other session has: behind a pooler, the server's session may have been another client's. */
  readonly tag: string;
  /** The seconds of TCP keepalive and the milliseconds of `tcp_user_timeout`; absent: left as they are. */
  readonly belt: readonly [keepalive: string, userTimeout: string] | undefined;
}

/**
 * Makes a session fit to wait, whatever its role has set. Nothing is set on a standby, nor if the backend is not the one that was
 * announced, because then the session is somebody else's as well. Returns {@link OpenWaitingAnswer}.
 */
export function openWaitingScript({ announcedPid, name, tag, belt: timeouts }: OpenWaiting): string {
  const set = [
    "pg_catalog.set_config('idle_session_timeout', '0', false)",
    holderFit(textLiteral(name)),
    // PostgreSQL 17 is the first to have it.
    `case when pg_catalog.current_setting('transaction_timeout', true) is not null
                then pg_catalog.set_config('transaction_timeout', '0', false) end`,
    ...(timeouts === undefined ? [] : [belt(`'${timeouts[0]}'`, `'${timeouts[1]}'`)]),
  ].join(",\n           ");
  const isAnnounced =
    announcedPid === undefined
      ? "true"
      : `pg_catalog.pg_backend_pid() operator(pg_catalog.=) ${announcedPid}`;
  return `${verdicts(tag)}
select pg_catalog.json_build_object(
         'pid', pg_catalog.pg_backend_pid(),
         'standby', pg_catalog.pg_is_in_recovery(),
         'quiet', ${mayUseBlocks},
         'set', case when not pg_catalog.pg_is_in_recovery() and ${isAnnounced} then pg_catalog.concat(
           ${set}) end)::pg_catalog.text`;
}

const modes: readonly LockMode[] = ["exclusive", "shared"];

function verdicts(tag: string): string {
  return modes
    .flatMap((mode) => [false, true].map((fenced) => ({ mode, fenced, tag })))
    .map((of) => `prepare ${verdictName(of)}(pg_catalog.int8) as ${verdictOf(of.mode, of.fenced)};`)
    .join("\n");
}

export interface OpenWaitingAnswer {
  readonly pid: number;
  readonly standby: boolean;
  readonly quiet: boolean;
}

function suffix(mode: LockMode): string {
  return mode === "shared" ? "_shared" : "";
}

/** Quoted, because the smallest id isn't a literal of its type without the sign. */
function idLiteral(id: bigint): string {
  return `'${BigInt.asIntN(64, id)}'::pg_catalog.int8`;
}

/**
 * One wait on a session that is the caller's: it answers nothing, and leaves no line in the server's log. In a transaction, which it
 * doesn't harm, `lock_timeout` stays set after a grant. Whether the lock was granted is asked afterwards: a grant in the moment of a
 * cancel outlives the rollback of the block. `bound`: in milliseconds.
 */
export function waitOnClient({ id, mode, bound }: { id: bigint; mode: LockMode; bound: string }): string {
  return `
do language plpgsql $pg_locker$
begin
  perform pg_catalog.set_config('lock_timeout', '${bound}', true);
  perform pg_catalog.pg_advisory_lock${suffix(mode)}(${idLiteral(id)});
exception when lock_not_available or query_canceled then null;
end $pg_locker$`;
}

/**
 * Which locks may be free, as far as the server's list of locks tells: nobody has one, or readers alone have it and a reader asks.
 *
 * Parameters: lock ids; as many truth values, whether to share. Returns the places of those in the arrays, counted from 1.
 */
export const lookForFree = statement(`
select coalesce(pg_catalog.json_agg(wanted.at), '[]')::pg_catalog.text
  from rows from (pg_catalog.unnest($1::pg_catalog.int8[]), pg_catalog.unnest($2::pg_catalog.bool[]))
       with ordinality as wanted(id, to_share, at)
 where not exists (
         select from pg_catalog.pg_locks as lock
          where lock.locktype operator(pg_catalog.=) 'advisory'
            and lock.granted
            and lock.objsubid operator(pg_catalog.=) 1
            and lock.database operator(pg_catalog.=) (
                  select oid from pg_catalog.pg_database
                   where datname operator(pg_catalog.=) pg_catalog.current_database())
            and lock.classid::pg_catalog.int8 operator(pg_catalog.=)
                  ((wanted.id operator(pg_catalog.>>) 32) operator(pg_catalog.&) 4294967295)
            and lock.objid::pg_catalog.int8 operator(pg_catalog.=) (wanted.id operator(pg_catalog.&) 4294967295)
            and not (wanted.to_share and lock.mode operator(pg_catalog.=) 'ShareLock'))`);
