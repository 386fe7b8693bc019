import type { LockMode } from "../contract/locker.ts";
import { type Statement, statement } from "./driver.ts";
import { durable, fencingToken, mayUseBlocks, prepared, setHolderSettings, setLinkTimeouts } from "./sql.ts";
import { textLiteral } from "./sql-literal.ts";

// The statements of a session on which a caller waits for a lock inside the server.

/** One wait inside the server. */
export interface WaitInServer {
  readonly id: bigint;
  readonly mode: LockMode;
  /** The longest time to wait in milliseconds, at least 1, because 0 would mean no bound. */
  readonly bound: number;
  /** The new `application_name`, in printable ASCII. */
  readonly name: string;
  /** The `idle_session_timeout` of the session once it has been granted the lock. */
  readonly sessionTimeout: string;
  readonly fenced: boolean;
  /** Whether the session may use PL/pgSQL: see {@link OpenWaitingAnswer}. */
  readonly quiet: boolean;
  /** The tag of the session's prepared statements: see {@link OpenWaiting.tag}. */
  readonly tag: string;
}

/**
 * One wait, as several statements in one message: a single round trip, and a single transaction in the server.
 *
 * - `lock_timeout` bounds the wait. The block catches the error of the time-out, or of a cancellation, so the server logs nothing. The
 *   settings are set inside the block too, because a cancellation may come that early; if the block fails, they are rolled back.
 *   Without PL/pgSQL, the plain statement waits, and each time-out or cancellation is a line in the server's log.
 * - A try afterwards says whether the lock was granted, because a grant at the moment of the cancellation survives the block's rollback.
 *   A session may take its own lock again, so after a grant the lock is held twice; {@link releaseWaited} frees it whatever the count.
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
 * Whether the session has the lock after its {@link waitScript} failed: that rolled back its settings, but not a lock that was granted.
 */
export function verdictScript(wait: WaitInServer): string {
  return `select ${settings(wait)};
${verdict(wait)}`;
}

const settings = (wait: WaitInServer): string =>
  `pg_catalog.set_config('lock_timeout', '${Math.ceil(wait.bound)}', false),
       pg_catalog.set_config('idle_session_timeout', '${wait.sessionTimeout}', false),
       pg_catalog.set_config('application_name', ${textLiteral(wait.name)}, false)`;

/** Executes the statement that was prepared when the session was opened, so that nothing is parsed between a grant and its answer. */
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

/** Milliseconds after which the server ends an unused session, in case its client's host has vanished. */
const idleAtMost = 60_000;

/**
 * Frees the lock that was waited for, however many times the session holds it, and prepares the session for the next wait: it has no TTL
 * then, and a parameter gives its name. Returns whether the lock was held. Further parameter: lock id.
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
  /** The pid of the announced backend; absent: not checked. */
  readonly announcedPid: number | undefined;
  /** The session's `application_name`. */
  readonly name: string;
  /** Letters and digits that no other session has, for names that don't clash if a pooler gave the session to another client before. */
  readonly tag: string;
  /** The TCP keepalive in seconds and `tcp_user_timeout` in milliseconds; absent: left as they are. */
  readonly linkTimeouts: readonly [keepalive: string, userTimeout: string] | undefined;
}

/**
 * Prepares a session to wait, overriding the settings of its role. Sets nothing on a standby, nor if the backend is not the announced
 * one, because the session is then shared with others. Returns {@link OpenWaitingAnswer}.
 */
export function openWaitingScript({ announcedPid, name, tag, linkTimeouts: timeouts }: OpenWaiting): string {
  const set = [
    "pg_catalog.set_config('idle_session_timeout', '0', false)",
    setHolderSettings(textLiteral(name)),
    // `transaction_timeout` exists since PostgreSQL 17.
    `case when pg_catalog.current_setting('transaction_timeout', true) is not null
                then pg_catalog.set_config('transaction_timeout', '0', false) end`,
    ...(timeouts === undefined ? [] : [setLinkTimeouts(`'${timeouts[0]}'`, `'${timeouts[1]}'`)]),
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

/** Formats an id as a quoted literal: unquoted, the smallest bigint would be a number out of range with a minus sign. */
function idLiteral(id: bigint): string {
  return `'${BigInt.asIntN(64, id)}'::pg_catalog.int8`;
}

/**
 * One wait on the caller's own session. It returns nothing and writes no line to the server's log. It doesn't fail a transaction, but
 * after a grant leaves `lock_timeout` set in it. Another statement must ask whether the lock was granted, because a grant at the moment
 * of a cancellation survives the rollback of the block. `bound`: in milliseconds.
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
 * Which locks may be free, according to the server's list of locks: nobody holds the lock, or only readers do and a reader asks.
 *
 * Parameters: lock ids; as many booleans, true for the shared mode. Returns the positions of the free ones in the arrays, from 1.
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
