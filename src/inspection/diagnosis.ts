import { sentenceOf } from "../contract/caught-error.ts";
import type { PoolLike } from "../contract/clients.ts";
import { milliseconds } from "../contract/duration.ts";
import { DatabaseError, InvalidConfigError, LocksNotKeptError } from "../contract/errors.ts";
import type { Duration } from "../contract/locker.ts";
import type { Pool } from "../postgres/driver.ts";
import { LocksKept } from "../postgres/lock-proof.ts";
import { statementDeadline } from "../postgres/session.ts";
import { ping } from "../postgres/sql.ts";
import { dateLockTable } from "../postgres/sql-recovery.ts";
import { now } from "../runtime/clock.ts";
import { DiagnosisLine } from "./diagnosis-line.ts";
import {
  clockVerdict,
  connectionsVerdict,
  type DiagnosisCheck,
  durability,
  type Finding,
  fencingVerdict,
  lockTableVerdict,
  type PoolerSigns,
  poolerVerdict,
  primaryVerdict,
  privilegesVerdict,
  reachableVerdict,
  serverTtlVerdict,
  sharesSessions,
  timeouts,
  timeoutsVerdict,
  undrawnVerdict,
  unreachableVerdict,
  type Verdict,
  versionVerdict,
} from "./diagnosis-verdicts.ts";
import { lockIdsVerdict } from "./lock-ids-verdict.ts";
import { recoveryVerdict } from "./recovery-verdict.ts";
import {
  askClock,
  askConnections,
  askFencing,
  askLockTableUse,
  askPrivileges,
  askSettings,
  askVersion,
  type ConnectionsAnswer,
  cancelBackend,
  type LockTableUse,
  type PrivilegesAnswer,
  type SettingsAnswer,
  tryDrawing,
  tryEnforcing,
  type VersionAnswer,
} from "./sql-diagnosis.ts";
import { type SeenLock, seenLocks } from "./sql-inspection.ts";

/** Besides `deadline`, how locks are going to be taken: the options of `PostgresLocker` and `acquire` of the same names. */
export interface DiagnosisOptions {
  /** How long the server has for each connection and each statement. Default 5 s. */
  readonly deadline?: Duration;
  /** `"session"`: a pooler that keeps a session for each client is no fault. Default `"refuse"`: it is one, as for a locker. */
  readonly pooler?: "refuse" | "session";
  /** `true`: what keeps tokens from being drawn fails; `false`: it is not looked at. Default: it is a warning. */
  readonly fencing?: boolean;
  /** `"server"`: what keeps the server from enforcing a TTL fails. Default: it is a warning. */
  readonly ttlEnforcement?: "client" | "server";
}

/** Round trips that are timed. */
const samples = 5;
/** Attempts at being given somebody else's session: a single one misses if others keep the pooler busy. */
const attempts = 3;

/**
 * Whether a database is fit for locks: a finding for each of its sides, in a fixed order.
 *
 * It asks over at most three connections at once of its own, made as the pool makes them, so that a saturated pool says as much
 * as an idle one. It leaves nothing behind: no lock, no setting, and no session. If tokens wait for a synchronous standby, it draws
 * one, to see whether one answers.
 *
 * A server that can't be reached, refuses or falls silent is a finding that fails, and no error: what it was not asked after
 * that is left out.
 *
 * @throws {InvalidConfigError} `deadline` is not a positive, finite duration
 */
export async function diagnose(pool: PoolLike, options: DiagnosisOptions = {}): Promise<Finding[]> {
  const deadline = milliseconds(options.deadline ?? statementDeadline);
  if (deadline === undefined || !(deadline > 0) || deadline === Number.POSITIVE_INFINITY) {
    const wants = 'a positive duration such as 5000 or "5s"';
    throw new InvalidConfigError({ field: "deadline", got: options.deadline, wants });
  }
  let line: DiagnosisLine;
  try {
    line = await DiagnosisLine.open(pool as Pool, deadline);
  } catch (error) {
    return [{ check: "reachable", ...unreachable(error) }];
  }
  try {
    return await examine(new Examination(pool as Pool, line, options));
  } finally {
    await line.close();
  }
}

/** The connections are counted before those of the pooler and of the locks are made. */
async function examine(examination: Examination): Promise<Finding[]> {
  const findings: Finding[] = [];
  const { line } = examination;
  for (const [check, look] of Object.entries(looks) as [DiagnosisCheck, Look][]) {
    try {
      findings.push({ check, ...(await look(examination)) });
    } catch (error) {
      const message = sentenceOf(error);
      if (line.session.goneBecause !== undefined) {
        findings.push({
          check,
          verdict: "fail",
          found: message,
          advice: "Ask again: the server fell silent, or left",
        });
        break;
      }
      findings.push({ check, verdict: "warn", found: `not known: ${message}` });
    }
  }
  return findings.sort((one, other) => order.indexOf(one.check) - order.indexOf(other.check));
}

type Look = (examination: Examination) => Verdict | Promise<Verdict>;

const order: readonly DiagnosisCheck[] = [
  "reachable",
  "version",
  "primary",
  "pooler",
  "locks",
  "lock-ids",
  "timeouts",
  "lock-table",
  "recovery",
  "connections",
  "clock",
  "server-ttl",
  "fencing",
  "privileges",
];

/** How each check is made, in the order in which they are made. */
const looks: Record<DiagnosisCheck, Look> = {
  reachable: async (examination) => reachableVerdict(await examination.timeRoundTrips(), samples),
  version: async ({ line }) => versionVerdict(await line.ask<VersionAnswer>(askVersion)),
  primary: ({ standby }) => primaryVerdict(standby),
  connections: async ({ line }) => connectionsVerdict(await line.ask<ConnectionsAnswer>(askConnections)),
  "lock-table": async ({ line }) => lockTableVerdict(await line.ask<LockTableUse>(askLockTableUse)),
  recovery: async ({ line, standby }) => recoveryVerdict(standby ? undefined : await line.ask(dateLockTable)),
  timeouts: async ({ line }) => timeoutsVerdict(await line.ask<SettingsAnswer>(askSettings, [timeouts])),
  "lock-ids": async ({ line }) => lockIdsVerdict(await line.ask<SeenLock[]>(seenLocks, [null])),
  clock: async ({ line }) => clockVerdict(await compareClocks(line)),
  privileges: async ({ line }) => privilegesVerdict(await line.ask<PrivilegesAnswer>(askPrivileges)),
  pooler: async (examination) => poolerVerdict(await examination.lookForPooler(), examination.options.pooler),
  fencing: async (examination) => {
    const { line, options, standby } = examination;
    if (options.fencing === false) return { verdict: "ok", found: "not looked at: no tokens are wanted" };
    const missing = await line.ask<string[]>(askFencing);
    const settings = await line.ask<SettingsAnswer>(askSettings, [durability]);
    const { breaks, ...seen } = fencingVerdict(missing, { settings, standby });
    if (breaks) return { ...seen, verdict: options.fencing ? "fail" : "warn" };
    const waits = Boolean(settings["synchronous_standby_names"]?.value) && !examination.shared;
    const refused = waits ? await examination.drawToken() : undefined;
    return refused === undefined ? seen : undrawnVerdict(refused, { isWanted: options.fencing === true });
  },
  "server-ttl": async ({ line, options, shared }) => {
    const isWanted = options.ttlEnforcement === "server";
    try {
      const [set] = await line.ask<string[]>(tryEnforcing);
      return serverTtlVerdict({ set, shared, isWanted });
    } catch (error) {
      if (line.session.goneBecause !== undefined) throw error;
      return serverTtlVerdict({ refused: sentenceOf(error), shared, isWanted });
    }
  },
  locks: (examination) => examination.proveLocks(),
};

/** What is known so far of one database. */
class Examination {
  readonly line: DiagnosisLine;
  readonly options: DiagnosisOptions;
  readonly #pool: Pool;
  readonly #pids = new Set<number>();
  standby = false;
  /** A statement and the next may be served by different sessions. */
  shared = false;

  constructor(pool: Pool, line: DiagnosisLine, options: DiagnosisOptions) {
    this.#pool = pool;
    this.line = line;
    this.options = options;
  }

  /** @returns milliseconds */
  async timeRoundTrips(): Promise<number> {
    const times: number[] = [];
    for (let sample = 0; sample < samples; sample++) {
      const start = performance.now();
      await this.#ping();
      times.push(performance.now() - start);
    }
    times.sort((one, other) => one - other);
    return times[Math.floor(samples / 2)] ?? 0;
  }

  async #ping(): Promise<number> {
    const [standby, pid] = await this.line.ask<[boolean, number]>(ping);
    this.standby = standby;
    this.#pids.add(pid);
    return pid;
  }

  async lookForPooler(): Promise<PoolerSigns> {
    const taken = await this.#isTaken().catch(async (error: Error) => {
      // If the server has fallen silent, that is what is found, here and below.
      await this.#ping();
      return { unknown: error.message };
    });
    const signs = { announced: this.line.session.announcedPid, pids: this.#pids, taken };
    this.shared = sharesSessions(signs);
    return signs;
  }

  /**
   * Whether the transaction of a second client gets the session of the first, which is idle: what a pooler that shares sessions
   * does even if it is idle itself, and the first would be none the wiser.
   */
  async #isTaken(): Promise<boolean> {
    const other = await this.line.another();
    try {
      for (let attempt = 0; attempt < attempts; attempt++) {
        const mine = await this.#ping();
        if (!(await other.begin())) return true;
        const [, theirs] = await other.ask<[boolean, number]>(ping);
        // Before the first is asked again: of a pooler with a single session, it would wait for the second.
        const taken = theirs === mine || mine !== (await this.#ping());
        await other.rollback();
        if (taken) return true;
      }
      return false;
    } finally {
      await other.close();
    }
  }

  /**
   * Draws a token, on a connection of its own: one that waits for a standby knows nothing of the end of its client, and so is
   * cancelled.
   *
   * @returns why there is none; `undefined` if there is
   */
  async drawToken(): Promise<string | undefined> {
    const drawer = await this.line.another();
    let pid: number | undefined;
    try {
      [, pid] = await drawer.ask<[boolean, number]>(ping);
      await drawer.ask<unknown>(tryDrawing);
      return undefined;
    } catch (error) {
      if (pid !== undefined) await this.line.ask<boolean>(cancelBackend, [String(pid)]);
      return sentenceOf(error);
    } finally {
      await drawer.close();
    }
  }

  async proveLocks(): Promise<Verdict> {
    if (this.shared) {
      // What is taken on a session of others stays there.
      return { verdict: "warn", found: "not tried, behind a pooler that shares sessions" };
    }
    const proof = new LocksKept(this.#pool);
    try {
      await proof.prove(statementDeadline);
    } catch (error) {
      if (!(error instanceof LocksNotKeptError)) throw error;
      return { verdict: "fail", found: error.message, advice: "Connect to a PostgreSQL" };
    }
    if (proof.areProven) {
      return { verdict: "ok", found: "real: listed by the server, and refused to a second session" };
    }
    await this.#ping();
    const found = "not proved: that takes two more connections, which were not to be had, or failed";
    return { verdict: "warn", found, advice: "Close some connections, and ask again" };
  }
}

/** By how many milliseconds the server's clock is ahead of this machine's, from the quickest of some answers. */
async function compareClocks(line: DiagnosisLine): Promise<{ ahead: number; uncertain: number }> {
  let best = { ahead: 0, uncertain: Number.POSITIVE_INFINITY };
  for (let sample = 0; sample < samples; sample++) {
    const sent = now();
    const theirs = await line.ask<number>(askClock);
    const halfway = (performance.now() - sent.monotonic) / 2;
    // This machine's wall clock is read in whole milliseconds.
    if (halfway + 1 < best.uncertain)
      best = { ahead: theirs - (sent.wall + halfway), uncertain: halfway + 1 };
  }
  return best;
}

function unreachable(error: unknown): Verdict {
  if (!(error instanceof DatabaseError)) throw error;
  return unreachableVerdict(error.message, error.sqlState);
}
