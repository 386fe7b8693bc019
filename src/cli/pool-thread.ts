import { stat } from "node:fs";
import { Worker } from "node:worker_threads";
import { exitStatus } from "./exit-status.ts";
import { Failure, tooFewProcesses } from "./failure.ts";

// Node.js resolves names, and computes what a password is checked with, in a pool of threads that it starts when one is first needed. If the
// system doesn't allow so many, Node.js aborts, with a stack trace, and the runner is left behind.

let isMissing = false;

/** Starts the pool now, with a single thread. If that can't be started, {@link expectPoolThread} throws from now on. */
export async function reservePoolThread(): Promise<void> {
  if (!(await isThreadPossible())) {
    isMissing = true;
    return;
  }
  const name = "UV_THREADPOOL_SIZE";
  const before = process.env[name];
  process.env[name] = "1";
  // Starts the thread.
  await new Promise<void>((resolve) => stat("/", () => resolve()));
  if (before === undefined) delete process.env[name];
  else process.env[name] = before;
}

/** @throws {Failure} the pool could not be started */
export function expectPoolThread(): void {
  if (isMissing) throw new Failure(exitStatus.failed, tooFewProcesses);
}

/** Tries it with a thread that does nothing; Node.js reports it if that can't be started. */
async function isThreadPossible(): Promise<boolean> {
  try {
    const worker = new Worker("", { eval: true });
    return await new Promise((resolve) => {
      worker.once("error", () => resolve(false));
      worker.once("exit", () => resolve(true));
    });
  } catch {
    return false;
  }
}
