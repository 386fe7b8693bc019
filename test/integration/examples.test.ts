import pg from "pg";
import { describe, expect, test } from "vitest";
import { lockId } from "../../src/index.ts";
import { Child } from "../support/child.ts";
import {
  advisoryLocks,
  createPool,
  databaseUrl,
  holdersOf,
  onServer,
  uniqueKey,
} from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

/** The output of the examples, in the order in which it was written. */
interface Line {
  /** Milliseconds of the wall clock, which all processes share. */
  readonly at: number;
  readonly pid: number;
  readonly what: string;
  readonly why?: string;
  readonly tick?: string;
}

/** From the line with which a turn began to the line with which it ended, or to the last sign of life. */
interface Turn {
  readonly pid: number;
  readonly from: number;
  readonly to: number;
}

/** Some replicas of an example, each a process. */
class Replicas implements AsyncDisposable {
  readonly children: readonly Child[];
  readonly #killed = new Map<number, number>();

  constructor(program: string, options: { count: number; env: Readonly<Record<string, string>> }) {
    const env = { DATABASE_URL: databaseUrl(), ...options.env };
    const start = () => Child.start(`../../../examples/${program}`, { env });
    this.children = Array.from({ length: options.count }, start);
  }

  /** The lines sorted by time; lines of one process stay in their order. */
  lines(): Line[] {
    return this.children
      .flatMap((child) => child.messages)
      .map((message) => ({ ...message, at: Date.parse(String(message["at"])) }) as Line)
      .sort((a, b) => a.at - b.at);
  }

  child(pid: number): Child {
    const found = this.children.find((child) => child.pid === pid);
    if (!found) throw new Error(`no replica has the pid ${pid}`);
    return found;
  }

  /** The first line, past or future, that `matches`. */
  async line(matches: (line: Line) => boolean): Promise<Line> {
    const found = () => this.lines().find(matches);
    return await until(found, { deadline: 10_000, what: String(matches) }).catch((error) => {
      const said = this.children.map((child) => `${JSON.stringify(child.messages)}\n${child.stderr}`);
      throw new Error(`${error.message}\n${said.join("\n")}`, { cause: error });
    });
  }

  async kill(pid: number): Promise<void> {
    const before = Date.now();
    this.child(pid).signal("SIGKILL");
    await this.child(pid).exited;
    const lines = this.lines().filter((line) => line.pid === pid);
    this.#killed.set(pid, Math.max(before, lines.at(-1)?.at ?? 0));
  }

  /** Ends all replicas that still run with SIGTERM. Returns their exit codes. */
  async stop(): Promise<(number | null)[]> {
    const rest = this.children.filter((child) => !this.#killed.has(child.pid ?? 0));
    for (const child of rest) child.signal("SIGTERM");
    return (await Promise.all(rest.map((child) => child.exited))).map((exit) => exit.code);
  }

  /** The turns of all replicas, by their beginning. A turn that hasn't ended lasts for ever. */
  turns(begins: string, ends: readonly string[]): Turn[] {
    const turns = this.children.flatMap(({ pid = 0 }) => {
      const own = this.lines().filter((line) => line.pid === pid);
      return own.flatMap((line, index): Turn[] => {
        if (line.what !== begins) return [];
        const end = own.slice(index).find(({ what }) => ends.includes(what))?.at;
        return [{ pid, from: line.at, to: end ?? this.#killed.get(pid) ?? Number.POSITIVE_INFINITY }];
      });
    });
    return turns.sort((a, b) => a.from - b.from);
  }

  /** No example may print a warning of Node.js. */
  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.children.map((child) => child[Symbol.asyncDispose]()));
    expect(this.children.map(({ stderr }) => stderr).join("")).toBe("");
  }
}

/** Resolves when that many sessions have tried, and wait in the server for the same lock. */
async function waiting(count: number): Promise<void> {
  const wait = async () => {
    const waits = (await advisoryLocks()).filter(({ granted }) => !granted);
    return waits.length === count && new Set(waits.map(({ id }) => id)).size <= 1;
  };
  await until(wait, { deadline: 10_000, what: `${count} replicas wait` });
}

function expectNoOverlap(turns: readonly Turn[]): void {
  const overlaps = turns.filter((turn, index) => index > 0 && turn.from < (turns[index - 1]?.to ?? 0));
  expect(overlaps, JSON.stringify(turns)).toEqual([]);
}

describe("leader election", () => {
  const start = () => {
    const key = uniqueKey("leader");
    const env = { KEY: key, TTL: "5s", EVERY: "20" };
    return { key, replicas: new Replicas("leader-election.mjs", { count: 3, env }) };
  };
  const terms = (replicas: Replicas) => replicas.turns("leading", ["stopped leading"]);
  /** Returns the next replica to lead after `at`. */
  const leaderAfter = (replicas: Replicas, at = 0) =>
    replicas.line(({ what, at: then }) => what === "leading" && then >= at);
  /** Asserts that a replica works only while it leads. */
  const expectWorkInTerms = (replicas: Replicas) => {
    const stray = replicas
      .lines()
      .filter(({ what }) => what === "working")
      .filter(({ at, pid }) => !terms(replicas).some((t) => t.pid === pid && t.from <= at && at <= t.to));
    expect(stray).toEqual([]);
  };

  test("one of three replicas leads, and SIGTERM hands over to the next", async () => {
    const { replicas, key } = start();
    await using _ = replicas;
    const left = new Set(replicas.children.map(({ pid }) => pid ?? 0));
    let since = 0;
    while (left.size > 0) {
      const leader = await leaderAfter(replicas, since);
      await replicas.line(({ what, pid }) => what === "working" && pid === leader.pid);
      await waiting(left.size - 1);
      expect(await holdersOf(lockId(0, key))).toHaveLength(1);
      since = Date.now();
      replicas.child(leader.pid).signal("SIGTERM");
      expect(await replicas.child(leader.pid).exited).toEqual({ code: 0, signal: null });
      left.delete(leader.pid);
      const exitedAt = Date.now();
      if (left.size > 0) expect((await leaderAfter(replicas, since)).at - exitedAt).toBeLessThan(1_000);
    }
    expect(terms(replicas).map(({ pid }) => pid)).toHaveLength(3);
    expectNoOverlap(terms(replicas));
    expectWorkInTerms(replicas);
    const ends = replicas.lines().filter(({ what }) => what === "stopped leading");
    expect(ends.map(({ why }) => why)).toEqual(["SIGTERM", "SIGTERM", "SIGTERM"]);
  });

  test("SIGKILL of the leader hands over within the TTL", async () => {
    const { replicas } = start();
    await using _ = replicas;
    const first = await leaderAfter(replicas);
    await waiting(2);
    const killedAt = Date.now();
    await replicas.kill(first.pid);
    const second = await leaderAfter(replicas, killedAt);
    expect(second.pid).not.toBe(first.pid);
    expect(second.at - killedAt).toBeLessThan(5_000);
    expect(await replicas.stop()).toEqual([0, 0]);
    expectNoOverlap(terms(replicas));
    expectWorkInTerms(replicas);
  });

  test("a leader that is stopped is replaced, and stands again when it goes on", async () => {
    const { replicas } = start();
    await using _ = replicas;
    const first = await leaderAfter(replicas);
    await waiting(2);
    const stoppedAt = Date.now();
    replicas.child(first.pid).signal("SIGSTOP");
    const second = await replicas.line(({ what, pid }) => what === "leading" && pid !== first.pid);
    expect(second.at).toBeGreaterThan(stoppedAt);
    replicas.child(first.pid).signal("SIGCONT");
    await replicas.line(({ what, pid }) => what === "stopped leading" && pid === first.pid);
    await waiting(2);
    expect(await replicas.stop()).toEqual([0, 0, 0]);
    expectWorkInTerms(replicas);
  });

  test("a leader whose session is ended stops, and somebody leads again", async () => {
    const { replicas, key } = start();
    await using _ = replicas;
    const first = await leaderAfter(replicas);
    await waiting(2);
    const [session] = await holdersOf(lockId(0, key));
    const endedAt = Date.now();
    await onServer("select pg_terminate_backend($1)", [session]);
    const stopped = await replicas.line(({ what }) => what === "stopped leading");
    expect(stopped).toMatchObject({ pid: first.pid, why: expect.stringMatching(/lost/) });
    // Because it is told, not because the TTL has passed.
    expect(stopped.at - endedAt).toBeLessThan(2_000);
    await leaderAfter(replicas, endedAt);
    // It stands again: all three either lead or wait.
    await waiting(2);
    expect(await replicas.stop()).toEqual([0, 0, 0]);
    // The server frees the lock of a session that it ends, but the news takes a while to arrive. For that long the next leader may lead
    // beside the first, which guarantees.md bounds by the TTL. For all others the check is strict.
    expectNoOverlap(
      terms(replicas).map((term) => (term.from === first.at ? { ...term, to: endedAt } : term)),
    );
    expectWorkInTerms(replicas);
  });

  test("replicas stand for election again after an outage of the database", async () => {
    const { replicas } = start();
    await using _ = replicas;
    const first = await leaderAfter(replicas);
    await waiting(2);
    const database = pg.escapeIdentifier(new URL(databaseUrl()).pathname.slice(1));
    const endedAt = Date.now();
    await onServer(`alter database ${database} with allow_connections false`);
    try {
      await onServer("select pg_terminate_backend(pid) from pg_stat_activity where datname = $1", [
        new URL(databaseUrl()).pathname.slice(1),
      ]);
      await replicas.line(({ what }) => what === "stopped leading");
    } finally {
      await onServer(`alter database ${database} with allow_connections true`);
    }
    await leaderAfter(replicas, Date.now());
    await waiting(2);
    expect(await replicas.stop()).toEqual([0, 0, 0]);
    // As above: the server may grant the lock to the next replica before it ends that session, too.
    expectNoOverlap(
      terms(replicas).map((term) => (term.from === first.at ? { ...term, to: endedAt } : term)),
    );
    expectWorkInTerms(replicas);
  });
});

describe("singleton cron", () => {
  /** Long enough that there is only one tick, which is in the past: a replica begins with the latest tick. */
  const week = String(7 * 24 * 3_600_000);
  const start = (name: string, count: number, env: { INTERVAL: string; WORK: string }) =>
    new Replicas("singleton-cron.mjs", { count, env: { JOB: name, ...env } });
  /** Three replicas, none of which gets the job before all wait for it. */
  const startTogether = async (name: string, env: { INTERVAL: string; WORK: string }) => {
    await using locker = createLocker();
    await using _ = await locker.acquire(`cron:${name}`, { autoRefresh: true });
    const replicas = start(name, 3, env);
    await waiting(3).catch(async (error) => {
      await replicas[Symbol.asyncDispose]();
      throw error;
    });
    return replicas;
  };
  const runs = (replicas: Replicas) => replicas.turns("running", ["done", "already done", "failed"]);
  const doneBy = (replicas: Replicas) => replicas.lines().filter(({ what }) => what === "done");
  /** Returns the rows of the table. */
  const recorded = async (name: string): Promise<number[]> => {
    const { rows } = await createPool().query<{ tick: Date }>(
      "select tick from cron_runs where job = $1 order by tick",
      [name],
    );
    return rows.map(({ tick }) => tick.getTime());
  };
  test("each tick is done once, by one of three replicas, and runs do not overlap", async () => {
    const name = uniqueKey("report");
    await using replicas = start(name, 3, { INTERVAL: "1000", WORK: "100" });
    await until(() => doneBy(replicas).length >= 5, { deadline: 15_000 });
    expect(await replicas.stop()).toEqual([0, 0, 0]);
    const ticks = doneBy(replicas).map(({ tick }) => Date.parse(tick ?? ""));
    expect(ticks).toEqual(ticks.map((_, index) => (ticks[0] ?? 0) + index * 1_000));
    expect(await recorded(name)).toEqual(ticks);
    expect(runs(replicas)).toHaveLength(ticks.length);
    expectNoOverlap(runs(replicas));
  });

  test("a tick whose replica is killed in mid-job is done once, by another", async () => {
    const name = uniqueKey("report");
    await using replicas = await startTogether(name, { INTERVAL: week, WORK: "500" });
    const killed = await replicas.line(({ what }) => what === "running");
    await replicas.kill(killed.pid);
    const done = await replicas.line(({ what }) => what === "done");
    expect(done.pid).not.toBe(killed.pid);
    expect(done.tick).toBe(killed.tick);
    const late = await replicas.line(({ what }) => what === "already done");
    expect(late.tick).toBe(killed.tick);
    expect(await replicas.stop()).toEqual([0, 0]);
    expect(doneBy(replicas)).toHaveLength(1);
    expect(await recorded(name)).toHaveLength(1);
    expect(runs(replicas).map(({ pid }) => pid)).toEqual([killed.pid, done.pid]);
    expectNoOverlap(runs(replicas));
  });

  test("a replica that gets the lock after the tick was done does not repeat it", async () => {
    const name = uniqueKey("report");
    const env = { INTERVAL: week, WORK: "10" };
    await using replicas = await startTogether(name, env);
    await until(() => replicas.lines().filter(({ what }) => what === "already done").length === 2);
    // Nor does a replica that comes when all is over, as one whose clock is late would.
    await using late = start(name, 1, env);
    const line = await late.line(() => true);
    expect(line).toMatchObject({ what: "already done", tick: doneBy(replicas)[0]?.tick });
    expect(await late.stop()).toEqual([0]);
    expect(await replicas.stop()).toEqual([0, 0, 0]);
    expect(runs(replicas)).toHaveLength(1);
    expect(await recorded(name)).toHaveLength(1);
  });
});

describe("semaphore", () => {
  const atWork = (replicas: Replicas) => replicas.turns("begins", ["ends"]);
  /** Returns how many replicas were at work when each turn began. */
  const beside = (turns: readonly Turn[]) =>
    turns.map((turn) => turns.filter((each) => each.from <= turn.from && turn.from < each.to).length);

  test("three replicas with two permits do two things, even after one is killed", async () => {
    const env = { KEY: uniqueKey("api"), PERMITS: "2", WORK: "50" };
    await using replicas = new Replicas("semaphore.mjs", { count: 3, env });
    const all = replicas.children.map(({ pid }) => pid);
    await until(() => new Set(atWork(replicas).map(({ pid }) => pid)).size === all.length, {
      deadline: 10_000,
    });
    const killed = atWork(replicas).at(-1)?.pid ?? 0;
    await replicas.kill(killed);
    const before = replicas.lines().length;
    await until(() => replicas.lines().length > before + 10, { deadline: 10_000 });
    expect(await replicas.stop()).toEqual([0, 0]);
    expect(Math.max(...beside(atWork(replicas)))).toBe(2);
    expect(replicas.lines().filter(({ what }) => what === "failed")).toEqual([]);
  });
});

describe("hold at least", () => {
  test("a tick is begun by one replica, though its job is over when the next one comes", async () => {
    const week = String(7 * 24 * 3_600_000);
    const env = { JOB: uniqueKey("digest"), INTERVAL: week, HOLD_AT_LEAST: "1h" };
    const start = () => new Replicas("hold-at-least.mjs", { count: 1, env });
    await using first = start();
    const { tick } = await first.line(({ what }) => what === "done");
    await using late = start();
    expect(await late.line(() => true)).toMatchObject({ what: "done elsewhere", tick });
    expect(await first.stop()).toEqual([0]);
    await using later = start();
    // The replica that kept it has gone.
    await later.line(({ what }) => what === "done");
    expect([...(await late.stop()), ...(await later.stop())]).toEqual([0, 0]);
  });
});
