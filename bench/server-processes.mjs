// Reads what the server's processes use, from Linux's /proc.
import { readdirSync, readFileSync } from "node:fs";

/**
 * The processor time in microseconds that the processes which still run have used since the last look of this watch. NaN if none can be
 * read: not on Linux, or on another machine.
 */
export class CpuWatch {
  #pids;
  #last;

  constructor(pids) {
    this.#pids = pids;
    this.#last = this.#read();
  }

  lap() {
    const now = this.#read();
    let sum = now.size === 0 ? Number.NaN : 0;
    for (const [pid, used] of now) sum += used - this.#last.get(pid);
    this.#last = now;
    return sum;
  }

  #read() {
    const used = this.#pids.map((pid) => [pid, nanoseconds(pid) / 1_000]);
    return new Map(used.filter(([, microseconds]) => microseconds > 0));
  }
}

/** The processor time of a postmaster and its running children, in milliseconds. */
export function cpuOf(postmaster) {
  const all = readdirSync("/proc").filter((pid) => {
    const stat = read(`/proc/${pid}/stat`);
    // The parent comes after the state, which comes after the name in parentheses.
    return (
      pid === String(postmaster) || stat.slice(stat.lastIndexOf(")")).split(" ")[2] === String(postmaster)
    );
  });
  return all.reduce((sum, pid) => sum + nanoseconds(pid), 0) / 1e6;
}

/** The processor time of a postmaster's ended children, in milliseconds, with a resolution of 10 ms. */
export function cpuOfEnded(postmaster) {
  const stat = read(`/proc/${postmaster}/stat`);
  // `cutime` and `cstime`, by their places after the state.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[13]) + Number(fields[14])) * 10;
}

/** The memory of a process in bytes, in which shared memory counts proportionally (PSS). */
export function proportionalBytes(pid) {
  const [, kilobytes] = /^Pss:\s+(\d+) kB/m.exec(read(`/proc/${pid}/smaps_rollup`)) ?? [];
  return kilobytes === undefined ? Number.NaN : Number(kilobytes) * 1_024;
}

/** The processor time of a process in nanoseconds. /proc/<pid>/stat has only hundredths of a second. */
function nanoseconds(pid) {
  return Number(read(`/proc/${pid}/schedstat`).split(" ")[0]);
}

function read(file) {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return "";
  }
}
