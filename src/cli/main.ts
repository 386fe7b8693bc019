#!/usr/bin/env node
import { readFileSync } from "node:fs";

// The command line. For `run`, it starts what takes longest before it loads anything else, even what reads the arguments.

/** A limit on the processes and threads of a user (`ulimit -u`) that is no concern: a command needs fewer than thirty. */
const plenty = 1_024;

/** Rejects if a file can't be loaded. Whatever else goes wrong is reported by the command. */
export const loaded: Promise<void> = load();

async function load(): Promise<void> {
  // Before the runner is started, which needs threads, too.
  if (isShortOfThreads()) {
    const { reservePoolThread } = await import("./pool-thread.ts");
    await reservePoolThread();
  }
  const [, , name] = process.argv;
  // Bun can't run the runner.
  if (name === "run" && process.argv.includes("--") && process.versions["bun"] === undefined) {
    if (process.pid === 1) {
      const { haveOrphansReaped } = await import("./run/first-process.ts");
      haveOrphansReaped();
    }
    const { startRunner } = await import("./run/early-runner.ts");
    startRunner();
  }
  const { runCommandLine } = await import("./command-line.ts");
  runCommandLine();
}

function isShortOfThreads(): boolean {
  // Root is not limited.
  if (process.getuid?.() === 0) return false;
  try {
    const limits = readFileSync("/proc/self/limits", "latin1");
    return Number(/^Max processes\s+(\d+)/m.exec(limits)?.[1] ?? plenty) < plenty;
  } catch {
    // Only Linux tells.
    return false;
  }
}
