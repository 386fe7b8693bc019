import { readdirSync, readFileSync } from "node:fs";
import { hasCode } from "../system-error.ts";

/** Signals every process of a group, where there is one that may be signalled. */
export function signalGroup(group: number, signal: NodeJS.Signals): void {
  try {
    process.kill(-group, signal);
  } catch (error) {
    // ESRCH: nobody is left. EPERM: everybody who is left has become another user.
    if (!hasCode(error, "ESRCH", "EPERM")) throw error;
  }
}

/** Whether a process of a group lives. One that has ended, and that nobody has asked about yet, does not. */
export function groupLives(group: number): boolean {
  try {
    process.kill(-group, 0);
  } catch (error) {
    if (hasCode(error, "ESRCH")) return false;
    if (!hasCode(error, "EPERM")) throw error;
  }
  // In a container whose first process asks about nobody, those that have ended stay for ever.
  const states = statesOf(group);
  return states.length === 0 || states.some((state) => state !== "Z" && state !== "X");
}

/** The states of the processes of a group, as Linux shows them; none where they can't be read. */
function statesOf(group: number): string[] {
  return processes().flatMap((pid) => {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      // "pid (name) state parent group ...", and a name may have anything in it.
      const [state = "", , itsGroup] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
      return Number(itsGroup) === group ? [state] : [];
    } catch (error) {
      if (hasCode(error, "ENOENT", "ESRCH", "EACCES")) return [];
      throw error;
    }
  });
}

function processes(): string[] {
  try {
    return readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  } catch (error) {
    if (hasCode(error, "ENOENT", "EACCES")) return [];
    throw error;
  }
}
