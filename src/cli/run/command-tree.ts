import { hasCode } from "../../contract/caught-error.ts";
import { plain } from "../../contract/plain-text.ts";
import { tellUserAtOnce } from "../tell-user.ts";
import { allProcesses, isRunning, type ProcessEntry, processOf, variableOf } from "./process-table.ts";

/**
 * The variable that marks the runner and everything that its command starts, unless that clears its environment. The value is a list
 * separated by `/`: a mark for each `run` that a process is under, from the outermost to the innermost.
 */
export const markVariable = "PG_LOCKER_RUN";

/** The variable's value for a process that this one starts under one more run. */
export function marksWith(mark: string): string {
  return [process.env[markVariable], mark].filter((each) => each).join("/");
}

/** The mark of the innermost run that this process is under. */
export function innermostMark(): string {
  return process.env[markVariable]?.split("/").at(-1) ?? "";
}

/** How many surviving processes are named. */
const mostNamed = 5;

/** A process of the command, identified by its pid and its start time. */
type Member = Pick<ProcessEntry, "pid" | "name" | "startedAt"> & {
  /** The number of runs between the process and the command. Those runs are responsible for it. */
  readonly depth: number;
};

/**
 * Everything that a command has started: the processes of its session, in whatever group; their descendants; and the processes with the
 * command's mark in their environment. A process is missed only if it has left all three: it has a session of its own, its environment has
 * no mark, and its parent has ended. Without `/proc`, the tree is the command's process group.
 */
export class CommandTree {
  readonly #leader: number | undefined;
  readonly #mark: string;
  readonly #startedAt: number;
  #members: readonly Member[] = [];

  /**
   * @param leader the pid of the command, which leads its session and its group; `undefined` if it isn't known, which leaves the mark
   * @param mark the command's own part of {@link markVariable}
   */
  constructor(leader: number | undefined, mark: string) {
    this.#leader = leader;
    this.#mark = mark;
    this.#startedAt = (leader === undefined ? undefined : processOf(leader)?.startedAt) ?? 0;
  }

  /** Signals all processes in the command's session, each group as a whole. */
  signal(signal: NodeJS.Signals): void {
    // The command's own group first, because what Ctrl-Z stops must not read what is typed next; finding the other groups takes a while.
    this.#signalGroup(signal);
    for (const group of this.#otherGroups(allProcesses() ?? [])) send(-group, signal);
  }

  /**
   * Signals every process except those under further runs, which pass the signal on. Groups in the session are signalled as a
   * whole, other processes one by one.
   */
  signalAll(signal: NodeJS.Signals): void {
    const processes = allProcesses() ?? [];
    // Listed before anything is signalled, because a process whose parent ends may no longer be recognised.
    const members = this.#look(processes);
    const others = this.#otherGroups(processes);
    this.#signalGroup(signal);
    for (const group of others) send(-group, signal);
    const groupOf = new Map(processes.map(({ pid, group }) => [pid, group]));
    for (const { pid, depth } of members) {
      const group = groupOf.get(pid) ?? 0;
      if (depth === 0 && group !== this.#leader && !others.has(group)) send(pid, signal);
    }
  }

  /** Kills every process, the innermost first, because the lock of a further run must not be free before its command is dead. */
  kill(): void {
    const members = this.#look(allProcesses() ?? []);
    for (const { pid } of members.toSorted((one, other) => other.depth - one.depth)) send(pid, "SIGKILL");
    this.#signalGroup("SIGKILL");
  }

  /** The processes that still run. */
  get living(): readonly Pick<ProcessEntry, "pid" | "name">[] {
    const processes = allProcesses();
    if (processes !== undefined) return this.#look(processes);
    if (this.#leader === undefined || this.#signalGroup(0) === "none") return [];
    return [{ pid: this.#leader, name: "" }];
  }

  /** Whether any process of the last listing still runs. That is quick, but finds no new ones. */
  get isKnownAlive(): boolean {
    if (this.#members.length === 0) return this.living.length > 0;
    return this.#members.some(({ pid, startedAt }) => {
      const entry = processOf(pid);
      return entry !== undefined && entry.startedAt === startedAt && isRunning(entry);
    });
  }

  /** Says in a line on standard error which processes still run, if any do. */
  tellOfSurvivors(): void {
    const { living } = this;
    if (living.length === 0) return;
    const names = living
      .slice(0, mostNamed)
      .map(({ pid, name }) => `${pid}${name === "" ? "" : ` (${plain(name)})`}`);
    const more = living.length > mostNamed ? ", ..." : "";
    const count = living.length === 1 ? "1 process still runs" : `${living.length} processes still run`;
    tellUserAtOnce(`pg-locker: ${count}, and could not be ended: ${names.join(", ")}${more}`);
  }

  #signalGroup(signal: NodeJS.Signals | 0): ReturnType<typeof send> {
    return this.#leader === undefined ? "none" : send(-this.#leader, signal);
  }

  /** The process groups in the command's session, except its own. */
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
      // No process of the command is older than it; and this process is not among them.
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

  /** The number of runs between a process and the command; `undefined` if the process lacks the command's mark, or hides its environment. */
  #depthOf({ pid }: ProcessEntry): number | undefined {
    const words = variableOf(pid, markVariable)?.split("/") ?? [];
    const at = words.indexOf(this.#mark);
    return at === -1 ? undefined : words.length - 1 - at;
  }
}

/** Sends a signal to a process, or to a group given as a negative number. */
export function send(target: number, signal: NodeJS.Signals | 0): "sent" | "none" | "refused" {
  try {
    process.kill(target, signal);
    return "sent";
  } catch (error) {
    if (hasCode(error, "ESRCH")) return "none";
    // For a group: all remaining processes belong to another user now.
    if (hasCode(error, "EPERM")) return "refused";
    throw error;
  }
}
