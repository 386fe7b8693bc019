import { lockId } from "../contract/lock-id.ts";
import type { LockMode } from "../contract/locker.ts";
import { type Statement, statement } from "./driver.ts";
import { leaveWitness, takeWitness } from "./sql-witness.ts";

/** A prepared statement's name must never stand for two texts, whatever versions of this library share a connection. */
export function prepared(what: string, text: string): Statement {
  return statement(text, `pg_locker_${what}_${BigInt.asUintN(64, lockId(0, text)).toString(36)}`);
}

/** Which of the statements of a lock is meant. */
export interface LockKind {
  readonly mode: LockMode;
  /** The server ends the session, and frees the lock, a TTL after it last spoke. */
  readonly enforced: boolean;
  /** The holder gets a fencing token. */
  readonly fenced: boolean;
  /** Its session is a witness of a recovery grace of that many milliseconds, as long as it has the lock. */
  readonly witness: number | undefined;
}

/** What only a holder's session needs, in the order of {@link SessionSettings}, after `idle_session_timeout`. */
const holderSettings = ["statement_timeout", "default_transaction_isolation", "application_name"];
/** A second guard for a dead link, if the TTL itself can't reach: a session that is busy sending. */
const linkSettings = [
  "tcp_keepalives_idle",
  "tcp_keepalives_interval",
  "tcp_keepalives_count",
  "tcp_user_timeout",
];

const settingsBeside = ({ enforced }: { enforced: boolean }): string[] =>
  enforced ? [...holderSettings, ...linkSettings] : holderSettings;

/** The settings that its kind of lock changes as the session has them, except `idle_session_timeout`. */
export const asTheyAre = (kind: { enforced: boolean }): string =>
  settingsBeside(kind)
    .map((name) => `pg_catalog.current_setting('${name}')`)
    .join(",\n           ");

/** Sets `idle_session_timeout` and those of {@link asTheyAre} to what they were, in parameters from this one on. */
export const putBack = (kind: { enforced: boolean }, first: number): string =>
  ["idle_session_timeout", ...settingsBeside(kind)]
    .map((name, at) => `pg_catalog.set_config('${name}', $${first + at}, false)`)
    .join(",\n         ");

/** Makes a session fit to hold something, whatever its role has set, under the `application_name` of a parameter. */
export const holderFit = (name: string): string => `pg_catalog.set_config('statement_timeout', '0', false),
           pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
           pg_catalog.set_config('application_name', ${name}, false)`;

/** Sets the belt of a link, from the parameters of the seconds of keepalive and of the milliseconds of time-out. */
export const belt = (
  keepalive: string,
  userTimeout: string,
): string => `pg_catalog.set_config('tcp_keepalives_idle', ${keepalive}, false),
           pg_catalog.set_config('tcp_keepalives_interval', ${keepalive}, false),
           pg_catalog.set_config('tcp_keepalives_count', '3', false),
           pg_catalog.set_config('tcp_user_timeout', ${userTimeout}, false)`;

/**
 * A number that grows from each holder of a lock to the next: the server's timeline in the upper 16 bits, and the id of this
 * statement's own transaction in the lower 48.
 *
 * Transaction ids are assigned in order, here after the grant; and the next grant comes after this statement has ended. The
 * id alone could be assigned again after a crash: the message, which is part of the transaction, makes the commit wait
 * until all that is on disk. A standby that is promoted may know less, but it begins a new timeline.
 */
export const fencingToken = `((('x' operator(pg_catalog.||) pg_catalog.substr(pg_catalog.pg_walfile_name(
             pg_catalog.pg_logical_emit_message(true, 'pg-locker', '')), 1, 8))::pg_catalog.bit(32)::pg_catalog.int8 operator(pg_catalog.<<) 48)
             operator(pg_catalog.|) pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8)::pg_catalog.text`;

/**
 * True, once the commit of this very statement waits for the disk: without that, whatever the role has set, a token could be
 * handed out again after a crash. One setting is stricter still.
 */
export const durable = `case when pg_catalog.current_setting('synchronous_commit') operator(pg_catalog.=) 'remote_apply' then true
                          else pg_catalog.set_config('synchronous_commit', 'on', true) is not null end`;

/** Which server this is, as long as it isn't started anew: its start, to the microsecond. Returned as text. */
export const serverStart = `pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())::pg_catalog.text`;

/** Draws a fencing token on a session that has no lock. Returns {@link DrawAnswer}. */
export const drawToken = prepared(
  "draw_token",
  `
select pg_catalog.json_build_object(
         'server', ${serverStart},
         'token', case when pg_catalog.pg_is_in_recovery() then null
                       when ${durable} then ${fencingToken} end)::pg_catalog.text`,
);

export interface DrawAnswer {
  readonly server: string;
  /** Null on a standby. */
  readonly token: string | null;
}

/** Makes a session fit to draw tokens. Parameter: `application_name`. */
export const openDrawing = statement(`
select pg_catalog.json_build_array(
         pg_catalog.set_config('idle_session_timeout', '0', false),
         ${holderFit("$1")})::pg_catalog.text`);

/**
 * Takes the lock or is refused, on a session of its own, in one round trip; the server is never asked to wait.
 *
 * Parameters: lock id, announced backend pid (null: not checked), `application_name` of a holder, `idle_session_timeout`
 * of a holder; if the TTL is enforced also the seconds of TCP keepalive and the milliseconds of `tcp_user_timeout`.
 * Returns {@link TryLockAnswer}.
 *
 * - Nothing is done on a standby (its locks exclude nobody on the primary) nor if the backend is not the one that was
 *   announced (a pooler stands between, and what is set would stay on somebody else's session): `granted` is null.
 * - CASE fixes the order of evaluation
 *   (https://www.postgresql.org/docs/current/sql-expressions.html#SYNTAX-EXPRESS-EVAL): the time-out of the session is
 *   that of a holder before the lock is asked for. The settings that only a holder needs come after.
 * - A refusal puts back what was set, so that the session can be returned at once.
 * - `offset 0` keeps the planner from pulling the inner select up, which would call its functions once per mention.
 * - One value of JSON is cheaper to read for the driver than eleven columns.
 */
const tryLockWith = (kind: LockKind): Statement => {
  const shared = kind.mode === "shared" ? "_shared" : "";
  return prepared(
    "try_lock",
    `
select pg_catalog.json_build_object(
         'pid', attempt.pid,
         'standby', attempt.standby,
         'granted', attempt.granted,
         'token', ${kind.fenced ? `case when attempt.granted then ${fencingToken} end` : "null::pg_catalog.text"},
         'before', case when attempt.granted then pg_catalog.json_build_array(
           attempt.idle_session_timeout,
           ${asTheyAre(kind)}) end,
         'set', case when attempt.granted then pg_catalog.concat(
           ${kind.witness === undefined ? "" : `${takeWitness(kind.witness)},`}
           ${kind.enforced ? `${belt("$5", "$6")},` : ""}
           ${holderFit("$3")}) end,
         'put back', case when not attempt.granted then
           pg_catalog.set_config('idle_session_timeout', attempt.idle_session_timeout, false) end)::pg_catalog.text
  from (select pg_catalog.pg_backend_pid() as pid,
               pg_catalog.pg_is_in_recovery() as standby,
               pg_catalog.current_setting('idle_session_timeout') as idle_session_timeout,
               case when pg_catalog.pg_is_in_recovery() or pg_catalog.pg_backend_pid() operator(pg_catalog.<>) $2::pg_catalog.int4 then null
                    when pg_catalog.set_config('idle_session_timeout', $4, false) is not null
                     ${kind.fenced ? `and ${durable}` : ""}
                    then pg_catalog.pg_try_advisory_lock${shared}($1::pg_catalog.int8) end as granted
        offset 0) as attempt`,
  );
};

export interface TryLockAnswer {
  readonly pid: number;
  readonly standby: boolean;
  /** Null: not tried. */
  readonly granted: boolean | null;
  /** A 64-bit number as a text, because a number of JSON is too short for it. */
  readonly token: string | null;
  /** What {@link unlock} puts back at the end. Null if the lock was not granted. */
  readonly before: SessionSettings | null;
}

/** The settings of a session as they were: `idle_session_timeout`, then those that its kind of lock needs. */
export type SessionSettings = readonly string[];

export const tryLock = ofKind(tryLockWith);

/**
 * Unlocks, and puts the session's settings back. Returns whether the session held the lock: the server warns if it did not, and
 * raises no error.
 *
 * Parameters: lock id, then {@link SessionSettings}.
 */
const unlockWith = (kind: LockKind): Statement =>
  prepared(
    "unlock",
    `
select pg_catalog.json_build_array(
         pg_catalog.pg_advisory_unlock${kind.mode === "shared" ? "_shared" : ""}($1::pg_catalog.int8),
         ${kind.witness === undefined ? "" : `${leaveWitness(kind.witness)},`}
         ${putBack(kind, 2)})::pg_catalog.text`,
  );

export type UnlockAnswer = readonly [wasHeld: boolean, ...others: unknown[]];

export const unlock = ofKind(unlockWith);

/** The statements of every kind of lock, each made once. */
function ofKind(make: (kind: LockKind) => Statement): (kind: LockKind) => Statement {
  const made = new Map<number, Statement>();
  return (kind) => {
    const { mode, enforced, fenced, witness = 0 } = kind;
    const at = (mode === "shared" ? 1 : 0) + (enforced ? 2 : 0) + (fenced ? 4 : 0) + 8 * witness;
    const known = made.get(at) ?? make(kind);
    made.set(at, known);
    return known;
  };
}

/**
 * Proves that the session lives, is the same one and is not on a standby: a primary can be demoted under an open socket.
 * `application_name` is the mark that nothing was discarded: DISCARD ALL, which frees every lock of a session without a
 * word, takes it away as well. (A look into pg_locks would say more, for 0.4 ms with a thousand locks in the server.)
 *
 * Every statement renews the time-out of an idle session; this one also changes it, unless the session is another's.
 *
 * Parameters: backend pid, `idle_session_timeout`. Returns {@link ProveAnswer}.
 */
export const prove = prepared(
  "prove",
  `
select pg_catalog.json_build_object(
         'pid', pg_catalog.pg_backend_pid(),
         'standby', pg_catalog.pg_is_in_recovery(),
         'name', pg_catalog.current_setting('application_name'),
         'set', case when pg_catalog.pg_backend_pid() operator(pg_catalog.=) $1::pg_catalog.int4
                then pg_catalog.set_config('idle_session_timeout', $2, false) end)::pg_catalog.text`,
);

export interface ProveAnswer {
  readonly pid: number;
  readonly standby: boolean;
  readonly name: string;
}

/** Whether the role may use PL/pgSQL, in a block of which a wait that ends without the lock is caught. */
export const mayUseBlocks = `exists (
           select from pg_catalog.pg_language as known
            where known.lanname operator(pg_catalog.=) 'plpgsql'
              and pg_catalog.has_language_privilege(known.oid, 'usage'))`;

/** What a wait of the server ends with, if nothing catches it: its time-out, or a cancellation. */
export const waitEnded: ReadonlySet<string | undefined> = new Set(["55P03", "57014"]);

/** Proves that a new session would be served, by a primary, and by the backend that was announced. */
export const ping = statement(
  "select pg_catalog.json_build_array(pg_catalog.pg_is_in_recovery(), pg_catalog.pg_backend_pid())::pg_catalog.text",
);

/** Whether there is a lock with an id, in the list of the server. */
const listed = (id: string, which: string): string => `exists (
         select from pg_catalog.pg_locks
          where locktype operator(pg_catalog.=) 'advisory' and granted and ${which}
            and classid operator(pg_catalog.=) (((${id}) operator(pg_catalog.>>) 32) operator(pg_catalog.&) 4294967295)::pg_catalog.oid
            and objid operator(pg_catalog.=) ((${id}) operator(pg_catalog.&) 4294967295)::pg_catalog.oid
            and objsubid operator(pg_catalog.=) 1)`;

/** Whether the session has the lock, which outside of a transaction it had only for the statement that took it. */
export const hasLock = statement(
  `select pg_catalog.to_json(${listed("$1::pg_catalog.int8", "pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()")})::pg_catalog.text`,
);

/** Takes a lock that nobody else knows of, to see whether it is kept; and gives it back. */
export const probeLock = statement(
  "select pg_catalog.to_json(pg_catalog.pg_try_advisory_lock($1::pg_catalog.int8))::pg_catalog.text",
);

export const unprobeLock = statement(
  "select pg_catalog.to_json(pg_catalog.pg_advisory_unlock($1::pg_catalog.int8))::pg_catalog.text",
);
