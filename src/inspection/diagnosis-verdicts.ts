import { formatDuration } from "../contract/duration.ts";
import type {
  ConnectionsAnswer,
  LockTableUse,
  PrivilegesAnswer,
  SettingsAnswer,
  VersionAnswer,
} from "./sql-diagnosis.ts";

/** The checks of a diagnosis, in the order of its findings. */
export type DiagnosisCheck =
  | "reachable"
  | "version"
  | "primary"
  | "pooler"
  | "locks"
  | "lock-ids"
  | "timeouts"
  | "lock-table"
  | "recovery"
  | "connections"
  | "clock"
  | "server-ttl"
  | "fencing"
  | "privileges";

/** The result of one check: what was found, in a sentence without secrets, and what to do about it. */
export interface Finding {
  readonly check: DiagnosisCheck;
  /** `"warn"`: locks work, but something could be better. `"fail"`: don't take locks here. */
  readonly verdict: "ok" | "warn" | "fail";
  readonly found: string;
  readonly advice?: string;
}

export type Verdict = Omit<Finding, "check">;

/** A round trip of more milliseconds is slow. A lock takes two, one to acquire and one to release: five locks a second at this limit. */
const slowRoundTrip = 100;
/** Clocks that differ by more milliseconds than this get a warning. */
const clocksApart = 1_000;
/** A shorter `statement_timeout`, in milliseconds, gets a warning: on a busy server it may end the statement that takes a lock. */
const shortStatement = 1_000;
/** The share of the lock table that may be used without a warning. */
const half = 0.5;
/** The share of the lock table, or of the allowed connections, above which it counts as nearly full. */
const nearlyAll = 0.9;

export function reachableVerdict(roundTrip: number, samples: number): Verdict {
  const found = `${inMilliseconds(roundTrip)} for a round trip, the median of ${samples}`;
  if (roundTrip <= slowRoundTrip) return { verdict: "ok", found };
  const advice = "Each acquire and each release waits for one: move closer to the server";
  return { verdict: "warn", found, advice };
}

/** The verdict if there is no session. `sqlState`: the server's, if it was the server that refused. */
export function unreachableVerdict(found: string, sqlState: string | undefined): Verdict {
  const advice =
    refusals[sqlState ?? ""] ??
    "Is it the right host and port, user and password, and does the server run there?";
  return { verdict: "fail", found, advice };
}

const wrongRole = "Is it the right user and password? pg_hba.conf on the server says who may connect";
const refusals: Record<string, string> = {
  "28000": wrongRole,
  "28P01": wrongRole,
  "3D000": "Name a database that exists: advisory locks of one database mean nothing in another",
  "42501": "Grant the role CONNECT on the database",
  "53200":
    "The server's lock table is full: release locks, or raise max_locks_per_transaction, which takes a restart",
  "53300": "No connection is left for this role: close some, or raise the limit",
  "55000": "The database accepts no connections (allow_connections)",
  "57P03": "The server is starting or stopping: try again",
};

export function versionVerdict({ number, name }: VersionAnswer): Verdict {
  const found = `PostgreSQL ${name}`;
  if (number >= 140_000) return { verdict: "ok", found };
  return {
    verdict: "fail",
    found,
    advice: "Upgrade the server: PostgreSQL 14 is the oldest version supported",
  };
}

export function primaryVerdict(standby: boolean): Verdict {
  if (!standby) return { verdict: "ok", found: "the server is a primary" };
  const found = "the server is a standby, whose locks exclude nobody on the primary";
  return { verdict: "fail", found, advice: "Connect to the primary" };
}

/** The signs of a pooler between this process and the server. */
export interface PoolerSigns {
  /** The backend that was announced when the connection was opened; `undefined` if the driver doesn't expose it. */
  readonly announced: number | undefined;
  /** The backends that served successive statements of one connection. */
  readonly pids: ReadonlySet<number>;
  /** Whether a transaction of a second connection got the backend of the first, or why that is unknown. */
  readonly taken: boolean | { readonly unknown: string };
}

/** Whether different sessions may serve successive statements of one connection. */
export function sharesSessions({ pids, taken }: PoolerSigns): boolean {
  return pids.size > 1 || taken === true;
}

/** The verdict on a pooler. @param meant the locker's option `pooler`: by default it refuses every pooler */
export function poolerVerdict(signs: PoolerSigns, meant: "refuse" | "session" = "refuse"): Verdict {
  const { announced, pids, taken } = signs;
  const [actual] = pids;
  if (sharesSessions(signs)) {
    return {
      verdict: "fail",
      found: "a pooler gives each transaction, or each statement, whichever session is free",
      advice: "Connect to the server's own port. Through this one, `withTransaction` alone is safe",
    };
  }
  if (announced !== undefined && announced !== actual) {
    const kept =
      typeof taken === "object"
        ? `whether it keeps one session for each client could not be seen (${taken.unknown})`
        : "as far as seen, it keeps one session for each client";
    const found = `backend ${announced} was announced and ${actual} answers: a pooler stands between; ${kept}`;
    if (meant === "session") return { verdict: typeof taken === "object" ? "warn" : "ok", found };
    return {
      verdict: "fail",
      found: `${found}; locks are refused here`,
      advice:
        'Connect to the server\'s own port; or, if the pooler is in session mode, say so with `pooler: "session"` ' +
        "(`--pooler=session`)",
    };
  }
  const found = `direct: backend ${actual} answers as announced`;
  return {
    verdict: "ok",
    found: announced === undefined ? `direct, as far as seen: backend ${actual}` : found,
  };
}

/** The settings that {@link timeoutsVerdict} checks, all in milliseconds; 0 means no time-out. */
export const timeouts = [
  "idle_session_timeout",
  "statement_timeout",
  "lock_timeout",
  "idle_in_transaction_session_timeout",
  "transaction_timeout",
  "tcp_user_timeout",
];
const endingTransactions = ["idle_in_transaction_session_timeout", "transaction_timeout"];

export function timeoutsVerdict(settings: SettingsAnswer): Verdict {
  const of = (name: string): number => Number(settings[name]?.value ?? 0);
  const set = timeouts.filter((name) => of(name) > 0);
  if (set.length === 0) return { verdict: "ok", found: "the role inherits none" };
  const found = set
    .map((name) => `${name} = ${formatDuration(of(name))} ${originOf(settings, name)}`)
    .join(", ");
  const advice: string[] = [];
  const statement = of("statement_timeout");
  if (statement > 0 && statement < shortStatement) {
    advice.push("statement_timeout is short enough to end the statement that takes a lock, on a busy server");
  }
  const ending = set.filter((name) => endingTransactions.includes(name));
  if (ending.length > 0) {
    advice.push(`${ending.join(" and ")} may end a \`withTransaction\`, and its lock with it`);
  }
  if (advice.length > 0)
    return { verdict: "warn", found, advice: `${advice.join("; ")}: raise it for this role` };
  return { verdict: "ok", found: `${found}: a lock's session sets its own` };
}

/** Where a setting comes from, in words for `pg_settings.source`. */
function originOf(settings: SettingsAnswer, name: string): string {
  const source = settings[name]?.source ?? "";
  return `(${origins[source] ?? source})`;
}

const origins: Record<string, string> = {
  user: "of the role",
  database: "of the database",
  "database user": "of the role in this database",
  client: "of the connection",
  session: "of the session",
  "configuration file": "of the server",
  "command line": "of the server",
  global: "of the server",
};

/** The verdict on the lock table. `room` is what the server reserves; measured, it takes twice as many locks before it is full. */
export function lockTableVerdict({ used, advisory, room }: LockTableUse): Verdict {
  const found = `${used} of ${room} locks in use (${percent(used / room)}), ${advisory} of them advisory`;
  if (used < room * half) return { verdict: "ok", found };
  return {
    verdict: used < room * nearlyAll ? "warn" : "fail",
    found,
    advice:
      "When it is full, nobody can take a lock, connect, or query: hold fewer at once, or raise max_locks_per_transaction, " +
      "which takes a restart",
  };
}

export function connectionsVerdict(answer: ConnectionsAnswer): Verdict {
  const limits = (["server", "role", "database"] as const)
    .map((whose) => ({ whose, used: answer[whose][0], limit: answer[whose][1] }))
    .filter(({ whose, limit }) => whose === "server" || limit >= 0)
    .sort((one, other) => share(other) - share(one));
  const found = limits
    .map(({ whose, used, limit }) => `${Math.max(0, limit - used)} of ${limit} left for the ${whose}`)
    .join(", ");
  const worst = limits.find(isFull) ?? limits[0];
  if (worst === undefined || (!isFull(worst) && share(worst) < nearlyAll)) return { verdict: "ok", found };
  const setting = {
    server: "max_connections",
    role: "the role's CONNECTION LIMIT",
    database: "the database's CONNECTION LIMIT",
  }[worst.whose];
  return {
    verdict: isFull(worst) ? "fail" : "warn",
    found,
    advice: `Close some, hold many locks on one connection (\`sessions: "shared"\`), or raise ${setting}`,
  };
}

/** The connections that a locker needs: one that carries locks, and one that waits for a lock. */
const connectionsNeeded = 2;

function isFull({ used, limit }: { used: number; limit: number }): boolean {
  return used + connectionsNeeded > limit;
}

function share({ used, limit }: { used: number; limit: number }): number {
  return limit === 0 ? Number.POSITIVE_INFINITY : used / limit;
}

/** The verdict on the clocks. `ahead`: milliseconds by which the server's clock is ahead of this machine's, give or take `uncertain`. */
export function clockVerdict({ ahead, uncertain }: { ahead: number; uncertain: number }): Verdict {
  const give = `give or take ${inMilliseconds(uncertain)}`;
  const apart = inMilliseconds(Math.abs(ahead));
  const found =
    Math.abs(ahead) <= uncertain
      ? `the clocks of the server and this machine agree, ${give}`
      : `the server's is ${apart} ${ahead > 0 ? "ahead of" : "behind"} this machine's, ${give}`;
  if (Math.abs(ahead) - uncertain <= clocksApart) return { verdict: "ok", found };
  const advice =
    "No lock depends on it, as TTLs are measured on one machine each; times in lists and logs will differ. Set both by NTP";
  return { verdict: "warn", found, advice };
}

/** The verdict on `ttlEnforcement: "server"`. `set`: the time-out that the server reports after it was set to a minute. `refused`: why it was not. */
export function serverTtlVerdict(tried: {
  set?: string | undefined;
  refused?: string;
  shared: boolean;
  /** Whether the user wants the server to enforce TTLs. */
  isWanted: boolean;
}): Verdict {
  const { set, refused, shared, isWanted } = tried;
  if (shared) {
    const found =
      "not possible behind a pooler that shares sessions: the time-out would affect other clients";
    return { verdict: isWanted ? "fail" : "warn", found, advice: "Connect to the server's own port" };
  }
  if (set === "1min") {
    return {
      verdict: "ok",
      found: 'the role may have the server enforce a TTL (`ttlEnforcement: "server"`)',
    };
  }
  const found = `the server sets no time-out for this session: ${refused ?? `set to 1min, it says ${set}`}`;
  if (isWanted) return { verdict: "fail", found, advice: "Grant the role SET on these settings" };
  return { verdict: "warn", found, advice: 'Leave `ttlEnforcement` at "client", and hold no election' };
}

/** The settings that {@link fencingVerdict} checks. */
export const durability = ["fsync", "synchronous_commit", "synchronous_standby_names"];

/** The verdict on fencing tokens. `breaks`: no token can be drawn at all. */
export function fencingVerdict(
  missing: readonly string[],
  { settings, standby }: { settings: SettingsAnswer; standby: boolean },
): Verdict & { readonly breaks?: true } {
  if (standby) {
    const advice = "Connect to the primary";
    return { verdict: "warn", found: "a standby draws no tokens", advice, breaks: true };
  }
  if (missing.length > 0) {
    const functions = missing.join(", ");
    const found = `the role may not call ${functions}, which \`fencing: true\` needs`;
    return {
      verdict: "warn",
      found,
      advice: `Grant EXECUTE on ${functions} to the role, or go without tokens (\`--no-fencing\`)`,
      breaks: true,
    };
  }
  if (settings["fsync"]?.value === "off") {
    return {
      verdict: "warn",
      found: "fsync = off: a crash of the server's machine may hand out a token twice",
      advice: "Turn fsync on, or go without tokens",
    };
  }
  const waits = settings["synchronous_standby_names"]?.value
    ? "; each waits for a standby (synchronous_standby_names)"
    : "";
  const commit = settings["synchronous_commit"]?.value;
  const own = commit === "on" || commit === "remote_apply" ? "" : ` where the role has ${commit}`;
  return {
    verdict: "ok",
    found: `the role may draw tokens, with a synchronous_commit of their own${own}${waits}`,
  };
}

/** The verdict if a token was drawn but did not arrive, because its commit waits for a standby. */
export function undrawnVerdict(refused: string, { isWanted }: { isWanted: boolean }): Verdict {
  return {
    verdict: isWanted ? "fail" : "warn",
    found: `a token waits for a synchronous standby and did not arrive: ${refused}`,
    advice:
      "Start a standby of synchronous_standby_names, or take its name out of there; or go without tokens (`--no-fencing`)",
  };
}

export function privilegesVerdict({ role, superuser, sees, ends }: PrivilegesAnswer): Verdict {
  if (superuser) return { verdict: "ok", found: `${role} is a superuser: sees and may end every session` };
  const found = `${role} sees ${sees ? "every session" : "its own sessions in full"}, may end ${
    ends ? "every session except a superuser's" : "its own"
  }`;
  if (sees && ends) return { verdict: "ok", found };
  const advice = [
    ...(sees ? [] : ["pg_read_all_stats to see who the other holders are"]),
    ...(ends ? [] : ["pg_signal_backend to end their sessions"]),
  ];
  return { verdict: "ok", found, advice: `If wanted, grant ${advice.join(", and ")}` };
}

function inMilliseconds(milliseconds: number): string {
  const digits = milliseconds < 10 ? 10 : 1;
  return formatDuration(Math.round(milliseconds * digits) / digits);
}

function percent(share: number): string {
  return `${Math.round(share * 100)} %`;
}
