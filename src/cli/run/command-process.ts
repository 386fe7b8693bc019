import { type SpawnOptions, type StdioOptions, spawn } from "node:child_process";
import { constants } from "node:os";
import { Worker } from "node:worker_threads";
import { codeOf } from "../../contract/caught-error.ts";
import { spawnRaw } from "./environment.ts";
import { isRunning, processOf } from "./process-table.ts";
import type { Program } from "./program.ts";

/** How a process ended: `signal` by its number, of which Node.js has no name above 31. */
export type Exit =
  | { readonly is: "not-run"; readonly code: string }
  | { readonly is: "ended"; readonly status: number | null; readonly signal: number | null };

/** Milliseconds between two looks whether it has ended, if a signal of that should be missed. */
const tick = 500;
/** Milliseconds for the thread to start a process. */
const patience = 10_000;
/** Signals above it are real-time ones: Node.js takes the end of a process by one for a success. */
const lastNamedSignal = 31;

/** How a program is started: in a session of its own. */
interface StartOptions {
  readonly stdio: StdioOptions;
  /** Of it, `undefined` takes a variable away. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** Whether it gets this process's own environment byte by byte: see `spawnRaw`. */
  readonly isRaw?: boolean;
}

interface CommandWork extends Program {
  readonly isRaw: boolean;
  readonly options: SpawnOptions;
}

/** What the thread says. */
type ThreadMessage =
  | { readonly code: string }
  | { readonly status: number | null; readonly name: string | null };

/** In the memory that is shared with the thread: where it is, and the number of the process that it has started. */
const phaseCell = 0;
const pidCell = 1;
const started = 1;
const released = 2;

// The thread starts the process, and stands still: until it goes on, nobody asks the system about a process that has ended, and
// what the system tells of it can be read.
const threadSource = `
const { parentPort, workerData } = require("node:worker_threads");
const { ChildProcess, spawn } = require("node:child_process");
const cells = new Int32Array(workerData);
const spawnRaw = (file, args, options) => {
  const child = new ChildProcess();
  child.spawn({ file, args: [file, ...args], envPairs: new Proxy([], {}), ...options });
  return child;
};
parentPort.once("message", ({ file, args, isRaw, options }) => {
  const failed = (error) => parentPort.postMessage({ code: String(error.code) });
  try {
    const child = (isRaw ? spawnRaw : spawn)(file, args, options);
    child.once("error", failed);
    child.once("exit", (status, name) => parentPort.postMessage({ status, name }));
    cells[${pidCell}] = child.pid ?? 0;
  } catch (error) {
    failed(error);
  }
  Atomics.store(cells, ${phaseCell}, ${started});
  Atomics.notify(cells, ${phaseCell});
  if (cells[${pidCell}] > 0) Atomics.wait(cells, ${phaseCell}, ${started});
});`;

/**
 * Starts one process, and tells how it ended: by whichever of the 64 signals, too. That takes a thread and the `/proc` of Linux,
 * which alone has real-time signals.
 */
export class ProcessStarter {
  #thread: Worker | undefined;
  readonly #cells = new Int32Array(new SharedArrayBuffer(8));

  /** Soon: the thread starts while something else is done. */
  constructor() {
    if (processOf(process.pid) === undefined) return;
    this.#thread = new Worker(threadSource, { eval: true, workerData: this.#cells.buffer });
    // It could not begin: too few files may be open. Then the process is started without it.
    this.#thread.on("error", () => {
      this.#thread = undefined;
    });
  }

  /**
   * Starts it, in this very step.
   *
   * @returns its number, `undefined` if it could not be started; and its end
   */
  start(program: Program, { stdio, environment = {}, isRaw = false }: StartOptions) {
    if (isRaw) setVariables(environment);
    const env = { ...process.env, ...environment };
    const work = { ...program, isRaw, options: { stdio, detached: true, ...(!isRaw && { env }) } };
    return this.#thread === undefined ? startHere(work) : this.#startInThread(this.#thread, work);
  }

  #startInThread(thread: Worker, work: CommandWork) {
    const cells = this.#cells;
    let pid: number | undefined;
    const ended = new Promise<Exit>((resolve) => {
      const look = (): void => {
        const entry = pid === undefined ? undefined : processOf(pid);
        if (entry !== undefined && isRunning(entry)) return;
        clearInterval(timer);
        process.removeListener("SIGCHLD", look);
        const signal = (entry?.waitStatus ?? 0) & 0x7f;
        if (signal > lastNamedSignal) resolve({ is: "ended", status: null, signal });
        Atomics.store(cells, phaseCell, released);
        Atomics.notify(cells, phaseCell);
      };
      const timer = setInterval(look, tick);
      process.on("SIGCHLD", look);
      thread.once("message", (message: ThreadMessage) => {
        clearInterval(timer);
        resolve("code" in message ? { is: "not-run", code: message.code } : exitOf(message));
      });
      thread.once("error", (error) => resolve({ is: "not-run", code: codeOf(error) ?? "" }));
    });
    thread.postMessage(work);
    Atomics.wait(cells, phaseCell, 0, patience);
    pid = cells[pidCell] || undefined;
    return { pid, ended };
  }
}

function startHere({ file, args, isRaw, options }: CommandWork) {
  let pid: number | undefined;
  const ended = new Promise<Exit>((resolve) => {
    const failed = (error: unknown): void => resolve({ is: "not-run", code: codeOf(error) ?? "" });
    try {
      const child = (isRaw ? spawnRaw : spawn)(file, args, options);
      child.once("error", failed);
      child.once("exit", (status, name) => resolve(exitOf({ status, name })));
      pid = child.pid;
    } catch (error) {
      failed(error);
    }
  });
  return { pid, ended };
}

function exitOf({ status, name }: { status: number | null; name: string | null }): Exit {
  return { is: "ended", status, signal: name === null ? null : constants.signals[name as NodeJS.Signals] };
}

function setVariables(environment: Readonly<Record<string, string | undefined>>): void {
  for (const [name, value] of Object.entries(environment)) {
    if (value === undefined) delete process.env[name];
    else process.env[name] = value;
  }
}
