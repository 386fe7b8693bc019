import { writeSync } from "node:fs";
import { hasCode } from "../../contract/caught-error.ts";
import { allProcesses, isRunning, type ProcessEntry, processOf, variableOf } from "./process-table.ts";

/**
 * The variable by which everything that a command starts is known, for as long as it keeps its environment. Its value is a word of
 * each `run` that it is under, from the outermost to the innermost, with a `/` between them.
 */
export const markVariable = "PG_LOCKER_RUN";

/** How many of those that still run are named. */
const mostNamed = 5;

/** A process of the command's, known by its number and the time of its start. */
type Member = Pick<ProcessEntry, "pid" | "name" | "startedAt"> & {
  /** Under how many further runs it is: their keepers have it in their charge. */
  readonly depth: number;
};

/**
 * Everything that a command has started: the processes of its session, whatever group they have made themselves; those that descend
 * from these; and those with the command's mark in their environment. Only what has left all three at once is not found: a session
 * of its own, an environment without the mark, and a parent that has ended. Without `/proc`, it is the command's group.
 */
export class CommandTree {
  readonly #leader: number;
  readonly #mark: string;
  readonly #startedAt: number;
  #members: readonly Member[] = [];

  /**
   * @param leader the number of the command, which leads its session and its group
   * @param mark the last word of its {@link markVariable}
   */
  constructor(leader: number, mark: string) {
    this.#leader = leader;
    this.#mark = mark;
    this.#startedAt = processOf(leader)?.startedAt ?? 0;
  }

  /** Signals what is in the command's session: group by group, each as a whole. */
  signal(signal: NodeJS.Signals): void {
    // Its own group at once: whom Ctrl-Z is to stop must not read what is typed next. To look for the others takes a while.
    send(-this.#leader, signal);
    for (const group of this.#otherGroups(allProcesses() ?? [])) send(-group, signal);
  }

  /**
   * Signals everything but what further runs have in their charge: those hear of it by their keepers. It goes to the groups of the
   * session, each as a whole, and to the others one by one.
   */
  signalAll(signal: NodeJS.Signals): void {
    const processes = allProcesses() ?? [];
    // Before anything is signalled: with its parent, a process may lose what it is known by.
    const members = this.#look(processes);
    const groups = new Set([this.#leader, ...this.#otherGroups(processes)]);
    for (const group of groups) send(-group, signal);
    const groupOf = new Map(processes.map(({ pid, group }) => [pid, group]));
    for (const { pid, depth } of members) {
      if (depth === 0 && !groups.has(groupOf.get(pid) ?? 0)) send(pid, signal);
    }
  }

  /** Kills everything, the innermost first: the lock of a further run is free only when what ran under it is dead. */
  kill(): void {
    const members = this.#look(allProcesses() ?? []);
    for (const { pid } of members.toSorted((one, other) => other.depth - one.depth)) send(pid, "SIGKILL");
    send(-this.#leader, "SIGKILL");
  }

  /** What lives of it. */
  get living(): readonly Pick<ProcessEntry, "pid" | "name">[] {
    const processes = allProcesses();
    if (processes !== undefined) return this.#look(processes);
    return send(-this.#leader, 0) === "none" ? [] : [{ pid: this.#leader, name: "" }];
  }

  /** Whether anything lives of what was found last: a quick look, which finds nobody new. */
  get isKnownAlive(): boolean {
    if (this.#members.length === 0) return this.living.length > 0;
    return this.#members.some(({ pid, startedAt }) => {
      const entry = processOf(pid);
      return entry !== undefined && entry.startedAt === startedAt && isRunning(entry);
    });
  }

  /** Says on standard error, in a line, that something is left, and what. */
  tellOfSurvivors(): void {
    const { living } = this;
    if (living.length === 0) return;
    const names = living
      .slice(0, mostNamed)
      .map(({ pid, name }) => `${pid}${name === "" ? "" : ` (${name})`}`);
    const more = living.length > mostNamed ? ", ..." : "";
    const count = living.length === 1 ? "1 process still runs" : `${living.length} processes still run`;
    try {
      writeSync(2, `pg-locker: ${count}, and could not be ended: ${names.join(", ")}${more}\n`);
    } catch {
      // Nobody is there to be told.
    }
  }

  /** The groups of the command's session, beside its own. */
  #otherGroups(processes: readonly ProcessEntry[]): ReadonlySet<number> {
    const groups = processes.filter(({ session }) => session === this.#leader).map(({ group }) => group);
    return new Set(groups.filter((group) => group !== this.#leader));
  }

  #look(processes: readonly ProcessEntry[]): readonly Member[] {
    const known = new Map(this.#members.map(({ pid, startedAt }) => [pid, startedAt]));
    const children = new Map<number, ProcessEntry[]>();
    for (const entry of processes) {
      const siblings = children.get(entry.parent);
      if (siblings === undefined) children.set(entry.parent, [entry]);
      else siblings.push(entry);
    }
    const members = new Map<number, Member>();
    const add = (entry: ProcessEntry, depth: number): void => {
      const { pid, name, startedAt } = entry;
      if (members.has(pid)) return;
      members.set(pid, { pid, name, startedAt, depth });
      for (const child of children.get(pid) ?? []) add(child, this.#depthOf(child) ?? depth);
    };
    for (const entry of processes) {
      // Nothing is older than the command, and this process is none of its own.
      if (entry.startedAt < this.#startedAt || entry.pid === process.pid) continue;
      const depth = this.#depthOf(entry);
      const isOwn =
        entry.session === this.#leader ||
        entry.parent === this.#leader ||
        depth !== undefined ||
        known.get(entry.pid) === entry.startedAt;
      if (isOwn) add(entry, depth ?? 0);
    }
    const alive = new Set(processes.filter(isRunning).map(({ pid }) => pid));
    this.#members = [...members.values()].filter(({ pid }) => alive.has(pid));
    return this.#members;
  }

  /** How many runs are between a process and the command; `undefined` if it does not tell, or is not of the command's. */
  #depthOf({ pid }: ProcessEntry): number | undefined {
    const words = variableOf(pid, markVariable)?.split("/") ?? [];
    const at = words.indexOf(this.#mark);
    return at === -1 ? undefined : words.length - 1 - at;
  }
}

/** Signals a process, or a group by its negative number. */
export function send(target: number, signal: NodeJS.Signals | 0): "sent" | "none" | "refused" {
  try {
    process.kill(target, signal);
    return "sent";
  } catch (error) {
    if (hasCode(error, "ESRCH")) return "none";
    // Of a group: everybody who is left has become another user.
    if (hasCode(error, "EPERM")) return "refused";
    throw error;
  }
}
