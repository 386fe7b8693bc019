#!/usr/bin/env node
// The command line. For `run`, it starts what takes longest before it loads anything else, even what reads the arguments.

/** Rejects if a file can't be loaded. Whatever else goes wrong is reported by the command. */
export const loaded: Promise<void> = load();

async function load(): Promise<void> {
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
