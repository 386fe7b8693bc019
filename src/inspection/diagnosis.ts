import { milliseconds } from "../contract/duration.ts";
import { DatabaseError, InvalidConfigError, LocksNotKeptError } from "../contract/errors.ts";
import type { Duration } from "../contract/locker.ts";
import {
  clientBeside,
  destroySocket,
  type OwnClient,
  type Pool,
  type Statement,
} from "../postgres/driver.ts";
import type { Value } from "../postgres/exchange.ts";
import { LocksKept } from "../postgres/lock-proof.ts";
import { Session, statementDeadline } from "../postgres/session.ts";
import { begin, ping, rollback } from "../postgres/sql.ts";
import { dateLockTable } from "../postgres/sql-recovery.ts";
import { now, within } from "../runtime/clock.ts";
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
  unreachableVerdict,
  type Verdict,
  versionVerdict,
} from "./diagnosis-verdicts.ts";
import { recoveryVerdict } from "./recovery-verdict.ts";
import {
  askClock,
  askConnections,
  askFencing,
  askLockTable,
  askPrivileges,
  askSettings,
  askVersion,
  type ConnectionsAnswer,
  type LockTableAnswer,
  type PrivilegesAnswer,
  type SettingsAnswer,
  tryEnforcing,
  type VersionAnswer,
} from "./sql-diagnosis.ts";

export interface DiagnosisOptions {
  /** How long the server has for each connection and each statement. Default 5 s. */
  readonly deadline?: Duration;
}

/** Round trips that are timed. */
const samples = 5;
/** Attempts to be given somebody else's session: one misses where others are busy with the pooler. */
const attempts = 3;

/**
 * Whether a database is fit for locks: a finding for each of its sides, in a fixed order.
 *
 * It asks over at most three connections at once of its own, made as the pool makes them, so that a saturated pool says as much
 * as an idle one. It leaves nothing behind: no lock, no setting, and no session.
 *
 * A server that can't be reached, refuses or falls silent is a finding that fails, and no error: what it was not asked after
 * that is left out.
 *
 * @throws {InvalidConfigError} `deadline` is not a positive, finite duration
 */
export async function diagnose(pool: Pool, options: DiagnosisOptions = {}): Promise<Finding[]> {
  const deadline = milliseconds(options.deadline ?? statementDeadline);
  if (deadline === undefined || !(deadline > 0) || deadline === Number.POSITIVE_INFINITY) {
    const wants = 'a positive duration such as 5000 or "5s"';
    throw new InvalidConfigError({ field: "deadline", got: options.deadline, wants });
  }
  let line: Line;
  try {
    line = await Line.open(pool, deadline);
  } catch (error) {
    return [{ check: "reachable", ...unreachable(error) }];
  }
  try {
    return await examine(pool, line);
  } finally {
    await line.close();
  }
}

/** The connections are counted before those of the pooler and of the locks are made. */
async function examine(pool: Pool, line: Line): Promise<Finding[]> {
  const findings: Finding[] = [];
  const examination = new Examination(pool, line);
  for (const [check, look] of Object.entries(looks) as [DiagnosisCheck, Look][]) {
    try {
      findings.push({ check, ...(await look(examination)) });
    } catch (error) {
      const { message } = error as Error;
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
  "timeouts",
  "lock-table",
  "recovery",
  "connections",
  "clock",
  "server-ttl",
  "fencing",
  "privileges",
];

/** In the order in which they are taken. */
const looks: Record<DiagnosisCheck, Look> = {
  reachable: async (examination) => reachableVerdict(await examination.timeRoundTrips(), samples),
  version: async ({ line }) => versionVerdict(await line.ask<VersionAnswer>(askVersion)),
  primary: ({ standby }) => primaryVerdict(standby),
  connections: async ({ line }) => connectionsVerdict(await line.ask<ConnectionsAnswer>(askConnections)),
  "lock-table": async ({ line }) => lockTableVerdict(await line.ask<LockTableAnswer>(askLockTable)),
  recovery: async ({ line, standby }) => recoveryVerdict(standby ? undefined : await line.ask(dateLockTable)),
  timeouts: async ({ line }) => timeoutsVerdict(await line.ask<SettingsAnswer>(askSettings, [timeouts])),
  clock: async ({ line }) => clockVerdict(await compareClocks(line)),
  fencing: async ({ line, standby }) => {
    const missing = await line.ask<string[]>(askFencing);
    const settings = await line.ask<SettingsAnswer>(askSettings, [durability]);
    return fencingVerdict(missing, { settings, standby });
  },
  privileges: async ({ line }) => privilegesVerdict(await line.ask<PrivilegesAnswer>(askPrivileges)),
  pooler: async (examination) => poolerVerdict(await examination.lookForPooler()),
  "server-ttl": async ({ line, shared }) => {
    try {
      const [set] = await line.ask<string[]>(tryEnforcing);
      return serverTtlVerdict({ set, shared });
    } catch (error) {
      if (line.session.goneBecause !== undefined) throw error;
      return serverTtlVerdict({ refused: (error as Error).message, shared });
    }
  },
  locks: (examination) => examination.proveLocks(),
};

/** What is known so far of one database. */
class Examination {
  readonly line: Line;
  readonly #pool: Pool;
  readonly #pids = new Set<number>();
  standby = false;
  /** A statement and the next may be served by different sessions. */
  shared = false;

  constructor(pool: Pool, line: Line) {
    this.#pool = pool;
    this.line = line;
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
      // Where the server has fallen silent, that is what is found, here and below.
      await this.#ping();
      return { unknown: error.message };
    });
    const signs = { announced: this.line.session.announcedPid, pids: this.#pids, taken };
    this.shared = sharesSessions(signs);
    return signs;
  }

  /**
   * Whether the transaction of a second client gets the session of the first, which is idle: what a pooler that shares sessions
   * does even where it is idle itself, and the first would be none the wiser.
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
        await other.session.command(doing, rollback, this.line.deadline);
        if (taken) return true;
      }
      return false;
    } finally {
      await other.close();
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
async function compareClocks(line: Line): Promise<{ ahead: number; uncertain: number }> {
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

const doing = "Asking";

/** A connection of the diagnosis's own. */
class Line {
  readonly session: Session;
  readonly deadline: number;
  readonly #pool: Pool;
  #ended: Promise<void> | undefined;

  private constructor(pool: Pool, client: OwnClient, deadline: number) {
    this.#pool = pool;
    this.deadline = deadline;
    this.session = new Session(client, (cause) => {
      if (cause === undefined) this.#ended = client.end();
    });
  }

  /** @throws {DatabaseError} */
  static async open(pool: Pool, deadline: number): Promise<Line> {
    let client: OwnClient | undefined;
    try {
      client = clientBeside(pool);
      await within(deadline, client.connect());
      return new Line(pool, client, deadline);
    } catch (cause) {
      if (client !== undefined) destroySocket(client);
      throw new DatabaseError({ doing: "Connecting", cause });
    }
  }

  another(): Promise<Line> {
    return Line.open(this.#pool, this.deadline);
  }

  /** @throws {DatabaseError} */
  async ask<T>(statement: Statement, values: Value[] = []): Promise<T> {
    return (await this.session.run<T>(doing, statement, values, this.deadline)).said;
  }

  /** Whether it could: a pooler in statement mode refuses transactions. @throws {DatabaseError} */
  async begin(): Promise<boolean> {
    try {
      await this.session.command(doing, begin, this.deadline);
      return true;
    } catch (error) {
      if (error instanceof DatabaseError && error.sqlState === "08P01") return false;
      throw error;
    }
  }

  async close(): Promise<void> {
    this.session.return();
    if (this.#ended === undefined) return;
    await within(this.deadline, this.#ended).catch(() => destroySocket(this.session.client));
  }
}

function unreachable(error: unknown): Verdict {
  if (!(error instanceof DatabaseError)) throw error;
  return unreachableVerdict(error.message, error.sqlState);
}
