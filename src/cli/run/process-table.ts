import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { hasCode } from "../../contract/caught-error.ts";

/** A process, as in Linux's `/proc/PID/stat`. */
export interface ProcessEntry {
  readonly pid: number;
  readonly name: string;
  /** The state as a letter: `R`, `S`, `Z`, ... */
  readonly state: string;
  readonly parent: number;
  readonly group: number;
  readonly session: number;
  /** In ticks since the machine started. It tells apart two processes that had the same pid. */
  readonly startedAt: number;
  /** How the process ended, if it has ended and nobody has reaped it yet. */
  readonly waitStatus: number;
}

let isOwnTable: boolean | undefined;

/**
 * Whether `/proc` numbers processes as this process does. It may belong to an outer namespace (after `unshare --pid` alone), in which the
 * same pids are those of other processes.
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

/** All processes in `/proc`; `undefined` without a `/proc` as Linux has it. */
export function allProcesses(): ProcessEntry[] | undefined {
  const own = processOf(process.pid);
  if (own === undefined) return undefined;
  return numbersIn("/proc").flatMap((pid) => processOf(pid) ?? []);
}

/** The process with this pid; `undefined` if there is none, it isn't shown, or `/proc` belongs to another namespace. */
export function processOf(pid: number): ProcessEntry | undefined {
  const stat = isOwn() ? textOf(`/proc/${pid}/stat`) : undefined;
  // "pid (name) state parent group session ...", in which the name may contain anything.
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

/** Whether a process still runs. A process that has ended but was not reaped does not. */
export function isRunning({ state }: ProcessEntry): boolean {
  return state !== "Z" && state !== "X";
}

/** A variable in the environment that a process was started with; `undefined` if it isn't set, or this user can't read the environment. */
export function variableOf(pid: number, name: string): string | undefined {
  const environment = textOf(`/proc/${pid}/environ`);
  const found = environment?.split("\0").find((each) => each.startsWith(`${name}=`));
  return found?.slice(name.length + 1);
}

/** How many bytes of address space this process may still reserve (`ulimit -v`). */
export function addressSpaceLeft(): number {
  const [, limit = "unlimited"] = /^Max address space\s+(\w+)/m.exec(textOf("/proc/self/limits") ?? "") ?? [];
  if (limit === "unlimited") return Number.POSITIVE_INFINITY;
  const [, kilobytes] = /^VmSize:\s*(\d+)/m.exec(textOf("/proc/self/status") ?? "") ?? [];
  return Number(limit) - Number(kilobytes ?? 0) * 1_024;
}

function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, "latin1");
  } catch (error) {
    // The process has ended or belongs to another user, or there is no `/proc`.
    if (hasCode(error, "ENOENT", "ESRCH", "EACCES", "EPERM")) return undefined;
    throw error;
  }
}

function numbersIn(folder: string): number[] {
  return readdirSync(folder)
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}
