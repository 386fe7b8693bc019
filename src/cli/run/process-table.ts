import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { hasCode } from "../../contract/caught-error.ts";

/** A process, as Linux shows it in `/proc/PID/stat`. */
export interface ProcessEntry {
  readonly pid: number;
  readonly name: string;
  /** A letter: `R`, `S`, `Z`, ... */
  readonly state: string;
  readonly parent: number;
  readonly group: number;
  readonly session: number;
  /** In ticks since the machine started: with it, a number that is used again is told from what it was before. */
  readonly startedAt: number;
  /** What the system tells of its end, once it has ended and nobody has asked about it yet. */
  readonly waitStatus: number;
}

let isOwnTable: boolean | undefined;

/**
 * Whether `/proc` numbers processes as this process does. It may be that of an outer namespace (`unshare --pid` alone), in which
 * the same numbers are those of strangers.
 */
function isOwn(): boolean {
  isOwnTable ??= ownNumber() === String(process.pid);
  return isOwnTable;
}

function ownNumber(): string | undefined {
  try {
    return readlinkSync("/proc/self");
  } catch {
    return undefined;
  }
}

/** Every process that is shown; `undefined` without a `/proc` such as Linux has. */
export function allProcesses(): ProcessEntry[] | undefined {
  const own = processOf(process.pid);
  if (own === undefined) return undefined;
  return numbersIn("/proc").flatMap((pid) => processOf(pid) ?? []);
}

/** The process of this number; `undefined` if there is none, none is shown, or `/proc` is that of another namespace. */
export function processOf(pid: number): ProcessEntry | undefined {
  const stat = isOwn() ? textOf(`/proc/${pid}/stat`) : undefined;
  // "pid (name) state parent group session ...", and a name may have anything in it.
  const behindName = stat?.lastIndexOf(")") ?? -1;
  if (stat === undefined || behindName === -1) return undefined;
  const fields = stat.slice(behindName + 2).split(" ");
  const [state = "", parent, group, session] = fields;
  return {
    pid,
    name: stat.slice(stat.indexOf("(") + 1, behindName),
    state,
    parent: Number(parent),
    group: Number(group),
    session: Number(session),
    startedAt: Number(fields[19]),
    waitStatus: Number(fields[49] ?? 0),
  };
}

/** Whether a process does anything still. One that has ended, and that nobody has asked about yet, does not. */
export function isRunning({ state }: ProcessEntry): boolean {
  return state !== "Z" && state !== "X";
}

/** A variable of the environment that a process was started with; `undefined` if it has none, or its environment is closed to this user. */
export function variableOf(pid: number, name: string): string | undefined {
  const environment = textOf(`/proc/${pid}/environ`);
  const found = environment?.split("\0").find((each) => each.startsWith(`${name}=`));
  return found?.slice(name.length + 1);
}

function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, "latin1");
  } catch (error) {
    // It has ended, or is another user's, or there is no `/proc`.
    if (hasCode(error, "ENOENT", "ESRCH", "EACCES", "EPERM")) return undefined;
    throw error;
  }
}

function numbersIn(folder: string): number[] {
  return readdirSync(folder)
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}
