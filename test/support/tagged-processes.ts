import { execFileSync, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { afterEach, beforeEach } from "vitest";
import { until } from "./until.ts";

// Importing this file makes each test fail if any process with `tag()` in its environment is left at its end, however it got it:
// `pg-locker`, what it starts, and what that starts in turn.

let current = "";

/** A variable for the environment of everything that the test starts. */
export function tag(): Readonly<Record<string, string>> {
  return { PG_LOCKER_TEST_TAG: current };
}

beforeEach(() => {
  current = randomBytes(8).toString("hex");
});

afterEach(async () => {
  await until(() => taggedProcesses().length === 0, { deadline: 15_000, interval: 50 }).catch(() => {
    const left = taggedProcesses();
    for (const { pid } of left) process.kill(pid, "SIGKILL");
    throw new Error(`the test leaves processes: ${left.map(({ command }) => command).join("; ")}`);
  });
});

/** The living processes of this test. */
export function taggedProcesses(): { pid: number; command: string }[] {
  return processesWith(current);
}

/** The living processes that have a text in their environment, their arguments or their working directory. */
export function processesWith(text: string): { pid: number; command: string }[] {
  return existsSync("/proc/self/environ") ? fromProc(text) : fromPs(text);
}

function fromProc(text: string): { pid: number; command: string }[] {
  const pids = readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.flatMap((pid) => {
    try {
      const args = readFileSync(`/proc/${pid}/cmdline`, "latin1");
      const all = [args, readFileSync(`/proc/${pid}/environ`, "latin1"), readlinkSync(`/proc/${pid}/cwd`)];
      if (!all.some((each) => each.includes(text))) return [];
      return [{ pid: Number(pid), command: args.replaceAll("\0", " ").trim() }];
    } catch {
      return []; // It has ended, or belongs to another user.
    }
  });
}

function fromPs(text: string): { pid: number; command: string }[] {
  const lines = execFileSync("ps", ["axeww", "-o", "pid=,command="], { encoding: "utf8" }).split("\n");
  return lines.flatMap((line) => {
    const [, pid, command = ""] = /^\s*(\d+) (.*)$/.exec(line) ?? [];
    return command.includes(text) ? [{ pid: Number(pid), command: command.split(" ", 3).join(" ") }] : [];
  });
}

/** Whether a process is stopped, as by Ctrl-Z. */
export function isStopped(pid: number): boolean {
  return stateOf(pid) === "T";
}

/** Whether a process still runs. A process that has ended but was not reaped does not. */
export function lives(pid: number): boolean {
  const state = stateOf(pid);
  return state !== undefined && state !== "Z" && state !== "X";
}

/** The state of a process as a letter, as `ps` and Linux show it; `undefined` if there is no such process. */
function stateOf(pid: number): string | undefined {
  if (existsSync("/proc/self/stat")) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, "latin1");
      return stat.charAt(stat.lastIndexOf(")") + 2);
    } catch {
      return undefined;
    }
  }
  // `ps` fails if there is no such process.
  const { stdout } = spawnSync("ps", ["-o", "state=", "-p", String(pid)], { encoding: "utf8" });
  return stdout.trim().charAt(0) || undefined;
}
