import { lockId } from "../contract/lock-id.ts";
import type { LockMode } from "../contract/locker.ts";
import { type Statement, statement } from "./driver.ts";
import { leaveWitness, takeWitness } from "./sql-witness.ts";

/** A prepared statement, named by a hash of its text: two versions of this library may share a connection, so a name must never have two texts. */
/* @__NO_SIDE_EFFECTS__ */
export function prepared(what: string, text: string): Statement {
  return statement(text, `pg_locker_${what}_${BigInt.asUintN(64, lockId(0, text)).toString(36)}`);
}

/** The kind of a lock, which selects the variant of each statement. */
export interface LockKind {
  readonly mode: LockMode;
  /** Whether the server ends the session, and so frees the lock, if it has been silent for a TTL. */
  readonly enforced: boolean;
  /** Whether the holder gets a fencing token. */
  readonly fenced: boolean;
  /** The recovery grace in milliseconds of which the session is a witness while it has the lock; `undefined`: it is none. */
  readonly witness: number | undefined;
}

/** The settings that only a holder's session changes, in the order of {@link SessionSettings}, after `idle_session_timeout`. */
const holderSettings = ["statement_timeout", "default_transaction_isolation", "application_name"];
/** The TCP settings that detect a dead link where `idle_session_timeout` can't: while the server is sending. */
const linkSettings = [
  "tcp_keepalives_idle",
  "tcp_keepalives_interval",
  "tcp_keepalives_count",
  "tcp_user_timeout",
];

const settingsBeside = ({ enforced }: { enforced: boolean }): string[] =>
  enforced ? [...holderSettings, ...linkSettings] : holderSettings;

/** Reads the current values of the settings that this kind of lock changes, except `idle_session_timeout`. */
export const currentSettings = (kind: { enforced: boolean }): string =>
  settingsBeside(kind)
    .map((name) => `pg_catalog.current_setting('${name}')`)
    .join(",\n           ");

/** Restores `idle_session_timeout` and the settings of {@link currentSettings} from parameters, of which the first has the number `first`. */
export const restoreSettings = (kind: { enforced: boolean }, first: number): string =>
  ["idle_session_timeout", ...settingsBeside(kind)]
    .map((name, at) => `pg_catalog.set_config('${name}', $${first + at}, false)`)
    .join(",\n         ");

/** Prepares a session to hold locks, overriding the settings of its role. `name`: the parameter with its `application_name`. */
export const setHolderSettings = (
  name: string,
): string => `pg_catalog.set_config('statement_timeout', '0', false),
           pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
           pg_catalog.set_config('application_name', ${name}, false)`;

/** Sets the TCP settings that detect a dead link, from parameters with the keepalive in seconds and the time-out in milliseconds. */
export const setLinkTimeouts = (
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
 * Transaction ids are assigned in order, this one after the grant, and the next grant comes after this statement has ended. The id
 * alone could be assigned again after a crash; the logical message, which is part of the transaction, makes the commit wait until it is
 * on disk. A promoted standby may have received less, but it begins a new timeline.
 */
export const fencingToken = `((('x' operator(pg_catalog.||) pg_catalog.substr(pg_catalog.pg_walfile_name(
             pg_catalog.pg_logical_emit_message(true, 'pg-locker', '')), 1, 8))::pg_catalog.bit(32)::pg_catalog.int8 operator(pg_catalog.<<) 48)
             operator(pg_catalog.|) pg_catalog.pg_current_xact_id()::pg_catalog.text::pg_catalog.int8)::pg_catalog.text`;

/**
 * Makes the commit of its own statement wait for the disk, whatever the role has set; always true. Otherwise a token could be handed out
 * again after a crash. `remote_apply` is kept, because it is stricter still.
 */
export const durable = `case when pg_catalog.current_setting('synchronous_commit') operator(pg_catalog.=) 'remote_apply' then true
                          else pg_catalog.set_config('synchronous_commit', 'on', true) is not null end`;

/** Identifies a run of the server: the time of its start to the microsecond, as text. */
export const serverStart = `pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())::pg_catalog.text`;

/** Draws a fencing token on a session that carries no lock. Returns {@link DrawAnswer}. */
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
  /** The fencing token; null on a standby. */
  readonly token: string | null;
}

/** Prepares a session to draw tokens. Parameter: `application_name`. */
export const openDrawing = statement(`
select pg_catalog.json_build_array(
         pg_catalog.set_config('idle_session_timeout', '0', false),
         ${setHolderSettings("$1")})::pg_catalog.text`);

/**
 * Takes the lock or is refused, on a dedicated session, in one round trip, without waiting in the server.
 *
 * Parameters: lock id, announced backend pid (null: not checked), `application_name` of a holder, `idle_session_timeout`
 * of a holder; if the TTL is enforced, also the TCP keepalive in seconds and `tcp_user_timeout` in milliseconds.
 * Returns {@link TryLockAnswer}.
 *
 * - It does nothing, and `granted` is null, on a standby (whose locks exclude nobody on the primary), or if the backend is not the
 *   announced one (then a pooler stands between, and the settings would stay on a session that others use).
 * - CASE fixes the order of evaluation
 *   (https://www.postgresql.org/docs/current/sql-expressions.html#SYNTAX-EXPRESS-EVAL): the session gets a holder's time-out before
 *   the lock is tried, and the settings that only a holder needs afterwards.
 * - A refusal restores the settings, so that the session can be returned at once.
 * - `offset 0` keeps the planner from flattening the inner select, which would call its functions once for each mention.
 * - One JSON value is cheaper for the driver to read than eleven columns.
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
           ${currentSettings(kind)}) end,
         'set', case when attempt.granted then pg_catalog.concat(
           ${kind.witness === undefined ? "" : `${takeWitness(kind.witness)},`}
           ${kind.enforced ? `${setLinkTimeouts("$5", "$6")},` : ""}
           ${setHolderSettings("$3")}) end,
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
  /** The fencing token as text, because a JSON number doesn't carry 64 bits. */
  readonly token: string | null;
  /** The settings that {@link unlock} restores. Null if the lock was not granted. */
  readonly before: SessionSettings | null;
}

/** The previous settings of a session: `idle_session_timeout`, then those that its kind of lock changes. */
export type SessionSettings = readonly string[];

export const tryLock = ofKind(tryLockWith);

/**
 * Unlocks, and restores the session's settings. Returns whether the session held the lock: if it did not, the server only warns.
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
         ${restoreSettings(kind, 2)})::pg_catalog.text`,
  );

export type UnlockAnswer = readonly [wasHeld: boolean, ...others: unknown[]];

export const unlock = ofKind(unlockWith);

/** Makes the variants of a statement for every kind of lock, each once. */
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
 * Proves that the session is alive, still the same, and not on a standby: a primary can be demoted under an open socket.
 * `application_name` shows that nothing was discarded: DISCARD ALL, which silently frees every lock of a session, resets it too.
 * (Reading pg_locks would say more, but takes 0.4 ms with a thousand locks in the server.)
 *
 * Every statement restarts the time-out of an idle session; this one also changes it, unless another backend serves the session.
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

/** Whether the role may use PL/pgSQL, in which a block can catch the error of a wait that ends without the lock. */
export const mayUseBlocks = `exists (
           select from pg_catalog.pg_language as known
            where known.lanname operator(pg_catalog.=) 'plpgsql'
              and pg_catalog.has_language_privilege(known.oid, 'usage'))`;

/** SQLSTATEs with which a wait in the server ends if no block catches them: its time-out, or a cancellation. */
export const waitEnded: ReadonlySet<string | undefined> = new Set(["55P03", "57014"]);

/** Asks whether the server is a standby, and which backend serves the session: proves that new sessions are served. */
export const ping = statement(
  "select pg_catalog.json_build_array(pg_catalog.pg_is_in_recovery(), pg_catalog.pg_backend_pid())::pg_catalog.text",
);

/** Whether `pg_locks` has a lock with an id. */
const listed = (id: string, which: string): string => `exists (
         select from pg_catalog.pg_locks
          where locktype operator(pg_catalog.=) 'advisory' and granted and ${which}
            and classid operator(pg_catalog.=) (((${id}) operator(pg_catalog.>>) 32) operator(pg_catalog.&) 4294967295)::pg_catalog.oid
            and objid operator(pg_catalog.=) ((${id}) operator(pg_catalog.&) 4294967295)::pg_catalog.oid
            and objsubid operator(pg_catalog.=) 1)`;

/** Whether the session has the lock. */
export const hasLock = statement(
  `select pg_catalog.to_json(${listed("$1::pg_catalog.int8", "pid operator(pg_catalog.=) pg_catalog.pg_backend_pid()")})::pg_catalog.text`,
);

/** Tries for a lock that nobody else knows, to see whether the server keeps it. */
export const probeLock = statement(
  "select pg_catalog.to_json(pg_catalog.pg_try_advisory_lock($1::pg_catalog.int8))::pg_catalog.text",
);

/**
 * Tries for a lock that another session has, to see whether the server keeps it. If it is granted, it is freed by the same statement.
 *
 * Parameters: lock id, that session's backend pid. Returns whether the lock was refused, and whether `pg_locks` says that the other has it.
 */
export const probeHeldLock = statement(
  `select pg_catalog.json_build_array(
            (case when pg_catalog.pg_try_advisory_lock($1::pg_catalog.int8)
             then pg_catalog.pg_advisory_unlock($1::pg_catalog.int8) end) is null,
            ${listed("$1::pg_catalog.int8", "pid operator(pg_catalog.=) $2::pg_catalog.int4")})::pg_catalog.text`,
);

export const unprobeLock = statement(
  "select pg_catalog.to_json(pg_catalog.pg_advisory_unlock($1::pg_catalog.int8))::pg_catalog.text",
);
