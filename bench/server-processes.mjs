// What the server's processes use, as Linux tells it.
import { readdirSync, readFileSync } from "node:fs";

/** Microseconds that these processes have used of the processors since the last look of this watch; of those that still run. */
export class CpuWatch {
  #pids;
  #last;

  constructor(pids) {
    this.#pids = pids;
    this.#last = this.#read();
  }

  lap() {
    const now = this.#read();
    let sum = 0;
    for (const [pid, used] of now) sum += used - this.#last.get(pid);
    this.#last = now;
    return sum;
  }

  #read() {
    const used = this.#pids.map((pid) => [pid, nanoseconds(pid) / 1_000]);
    return new Map(used.filter(([, microseconds]) => microseconds > 0));
  }
}

/** Milliseconds that a postmaster and its children have used of the processors; of those children that still run. */
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

/** Milliseconds that those children of a postmaster have used which have ended; in hundredths of a second. */
export function cpuOfEnded(postmaster) {
  const stat = read(`/proc/${postmaster}/stat`);
  // `cutime` and `cstime`, by their places after the state.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[13]) + Number(fields[14])) * 10;
}

/** Bytes of a process, in which what several share counts as a share each. */
export function proportionalBytes(pid) {
  const [, kilobytes] = /^Pss:\s+(\d+) kB/m.exec(read(`/proc/${pid}/smaps_rollup`)) ?? [];
  return kilobytes === undefined ? Number.NaN : Number(kilobytes) * 1_024;
}

/** Of the processors; /proc/<pid>/stat has hundredths of a second only. */
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
