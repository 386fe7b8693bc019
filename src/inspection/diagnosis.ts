import { sentenceOf } from "../contract/caught-error.ts";
import type { PoolLike } from "../contract/clients.ts";
import { milliseconds } from "../contract/duration.ts";
import { DatabaseError, LocksNotKeptError } from "../contract/errors.ts";
import type { Duration } from "../contract/locker.ts";
import type { OwnClient, Pool } from "../postgres/driver.ts";
import { arrayOf } from "../postgres/exchange.ts";
import { LocksKept } from "../postgres/lock-proof.ts";
import { statementDeadline } from "../postgres/session.ts";
import { ping } from "../postgres/sql.ts";
import { dateLockTable } from "../postgres/sql-recovery.ts";
import { monotonic, now } from "../runtime/clock.ts";
import { assertAsked } from "./asked-options.ts";
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
import { locksTold, type ToldLocks } from "./key-questions.ts";
import { lockIdsVerdict } from "./lock-ids-verdict.ts";
import { pidsOfShared } from "./lock-list.ts";
import { isTaken } from "./pooler-look.ts";
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

/** The options of `diagnose`. All except `deadline` say how locks will be used, and are named like those of `PostgresLocker` and `acquire`. */
export interface DiagnosisOptions {
  /**
   * How long the server may take for each connection and each statement.
   *
   * @default "5s"
   * @example
   * await diagnose(pool, { deadline: "1s" });
   */
  readonly deadline?: Duration;
  /**
   * `"refuse"`: any pooler fails the check, as it does for a locker. `"session"`: a pooler that keeps a session for each client passes.
   *
   * @default "refuse"
   * @example
   * await diagnose(pool, { pooler: "session" });
   */
  readonly pooler?: "refuse" | "session";
  /**
   * `true`: the check fails if fencing tokens can't be drawn. `false`: that is not checked.
   *
   * @default it is a warning
   * @example
   * await diagnose(pool, { fencing: true });
   */
  readonly fencing?: boolean;
  /**
   * `"server"`: the check fails if the server can't enforce a TTL.
   *
   * @default it is a warning
   * @example
   * await diagnose(pool, { ttlEnforcement: "server" });
   */
  readonly ttlEnforcement?: "client" | "server";
}

/** How many round trips are timed. */
const samples = 5;
/** The answers that prove the server's locks: two to the openings of connections, four to statements. */
const answersOfProof = 6;
/** Milliseconds to wait for the keys of locks on shared sessions. */
const answerTime = 500;

/**
 * Checks whether a database is fit for locks. Returns one finding for each check, in a fixed order.
 *
 * It opens at most three connections at once beside the pool, with the pool's settings, so it works even if the pool is saturated. It
 * leaves nothing behind: no lock, no setting and no session. If tokens wait for a synchronous standby, it draws one, to see whether
 * the standby answers.
 *
 * If the server can't be reached, refuses or falls silent, that is a finding that fails, not an error; the checks after it are left out.
 *
 * @throws {InvalidConfigError} the pool is none, or an option is unknown or of the wrong type
 */
export async function diagnose(pool: PoolLike, options: DiagnosisOptions = {}): Promise<Finding[]> {
  assertAsked(pool, "diagnosis", options);
  const deadline = milliseconds(options.deadline) ?? statementDeadline;
  let line: DiagnosisLine;
  try {
    line = await DiagnosisLine.open(pool as Pool, () => deadline);
  } catch (error) {
    return [{ check: "reachable", ...unreachable(error) }];
  }
  try {
    return await examine(new Examination(pool as Pool, line, options));
  } finally {
    await line.close();
  }
}

/** Makes all checks. Connections are counted before the checks of the pooler and of the locks open their own. */
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
          advice: "Try again: the server fell silent or closed the connection",
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

/** The function for each check, in the order in which the checks are made. */
const looks: Record<DiagnosisCheck, Look> = {
  reachable: async (examination) => reachableVerdict(await examination.timeRoundTrips(), samples),
  version: async ({ line }) => versionVerdict(await line.ask<VersionAnswer>(askVersion)),
  primary: ({ standby }) => primaryVerdict(standby),
  connections: async ({ line }) => connectionsVerdict(await line.ask<ConnectionsAnswer>(askConnections)),
  "lock-table": async ({ line }) => lockTableVerdict(await line.ask<LockTableUse>(askLockTableUse)),
  recovery: async ({ line, standby }) => recoveryVerdict(standby ? undefined : await line.ask(dateLockTable)),
  timeouts: async ({ line }) =>
    timeoutsVerdict(await line.ask<SettingsAnswer>(askSettings, [arrayOf(timeouts)])),
  clock: async ({ line }) => clockVerdict(await compareClocks(line)),
  privileges: async ({ line }) => privilegesVerdict(await line.ask<PrivilegesAnswer>(askPrivileges)),
  pooler: async (examination) => poolerVerdict(await examination.lookForPooler(), examination.options.pooler),
  "lock-ids": async (examination) => {
    const seen = await examination.line.ask<SeenLock[]>(seenLocks, [null]);
    return lockIdsVerdict(seen, await examination.askHolders(pidsOfShared(seen)));
  },
  fencing: async (examination) => {
    const { line, options, standby } = examination;
    if (options.fencing === false) return { verdict: "ok", found: "not checked: no tokens are wanted" };
    const missing = await line.ask<string[]>(askFencing);
    const settings = await line.ask<SettingsAnswer>(askSettings, [arrayOf(durability)]);
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

/** A diagnosis under way, with what it has found out so far. */
class Examination {
  readonly line: DiagnosisLine;
  readonly options: DiagnosisOptions;
  readonly #pool: Pool;
  readonly #pids = new Set<number>();
  standby = false;
  /** Whether different sessions may serve successive statements of one connection. */
  shared = false;

  constructor(pool: Pool, line: DiagnosisLine, options: DiagnosisOptions) {
    this.#pool = pool;
    this.line = line;
    this.options = options;
  }

  /** Measures the median round trip. @returns milliseconds */
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
      // If the server has fallen silent, this throws, and that is the finding. The same below.
      await this.#ping();
      return { unknown: error.message };
    });
    const signs = { announced: this.line.session.announcedPid, pids: this.#pids, taken };
    this.shared = sharesSessions(signs);
    return signs;
  }

  async #isTaken(): Promise<boolean> {
    const other = await this.line.another();
    try {
      return await isTaken(() => this.#ping(), other);
    } finally {
      await other.close();
    }
  }

  /**
   * Draws a fencing token on a separate connection. If its commit waits for a standby, it is cancelled, because the server wouldn't
   * notice that the client has gone.
   *
   * @returns why there is no token, or `undefined` if there is one
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

  /** Asks for the locks of shared sessions. Nobody is asked behind a pooler that shares sessions, because one of them would go on listening. */
  async askHolders(pids: ReadonlySet<number>): Promise<ToldLocks> {
    if (this.shared) return { locks: [], silent: pids };
    const client = this.line.session.client as OwnClient;
    return await locksTold(client, { pids, milliseconds: Math.min(this.line.deadline, answerTime) });
  }

  async proveLocks(): Promise<Verdict> {
    if (this.shared) {
      // A lock taken on a session that others use would stay there.
      return { verdict: "warn", found: "not tried, behind a pooler that shares sessions" };
    }
    const proof = new LocksKept(this.#pool);
    try {
      await proof.prove(Math.min(answersOfProof * this.line.deadline, statementDeadline));
    } catch (error) {
      if (!(error instanceof LocksNotKeptError)) throw error;
      return { verdict: "fail", found: error.message, advice: "Connect to PostgreSQL" };
    }
    if (proof.areProven) {
      return { verdict: "ok", found: "real: listed by the server, and refused to a second session" };
    }
    await this.#ping();
    const found = "not proved: that takes two more connections, which were not available or failed";
    return { verdict: "warn", found, advice: "Close some connections and try again" };
  }
}

/** How many milliseconds the server's clock is ahead of this machine's, measured by the quickest of several answers. */
async function compareClocks(line: DiagnosisLine): Promise<{ ahead: number; uncertain: number }> {
  let best = { ahead: 0, uncertain: Number.POSITIVE_INFINITY };
  for (let sample = 0; sample < samples; sample++) {
    const sent = now();
    const theirs = await line.ask<number>(askClock);
    const halfway = (monotonic() - sent.monotonic) / 2;
    // One millisecond more, because this machine's wall clock is read in whole milliseconds.
    if (halfway + 1 < best.uncertain)
      best = { ahead: theirs - (sent.wall + halfway), uncertain: halfway + 1 };
  }
  return best;
}

function unreachable(error: unknown): Verdict {
  if (!(error instanceof DatabaseError)) throw error;
  return unreachableVerdict(error.message, error.sqlState);
}
