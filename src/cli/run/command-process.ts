import { type SpawnOptions, type StdioOptions, spawn } from "node:child_process";
import { constants } from "node:os";
import { Worker } from "node:worker_threads";
import { codeOf } from "../../contract/caught-error.ts";
import { setVariables, spawnRaw } from "./environment.ts";
import { addressSpaceLeft, isRunning, processOf } from "./process-table.ts";
import type { Program } from "./program.ts";

/**
 * How a process ended. `signal` is a number, because Node.js has no names above 31. `unknown`: the thread that was to start it has failed;
 * the process, if it was started and its pid is known, has ended.
 */
export type Exit =
  | { readonly is: "not-run"; readonly code: string }
  | { readonly is: "unknown" }
  | { readonly is: "ended"; readonly status: number | null; readonly signal: number | null };

/** Milliseconds between two checks whether the process has ended, in case a SIGCHLD is missed. */
const tick = 500;
/** Milliseconds for which the thread may still be starting when it is needed. */
const threadPatience = 2_000;
/** Milliseconds in which the thread has to start a process. */
const patience = 10_000;
/** The address space in bytes with which a thread surely starts: it reserves up to 0.9 GB. With too little, it aborts the whole process. */
const roomForThread = 2 * 2 ** 30;
/** The highest signal that Node.js knows. Above are the real-time signals: it takes the end of a process by one for a success. */
const lastNamedSignal = 31;

/** How to start a program. It always gets a session of its own. */
interface StartOptions {
  readonly stdio: StdioOptions;
  /** The environment, in which `undefined` removes a variable. */
  readonly environment?: Readonly<Record<string, string | undefined>>;
  /** Whether the program gets this process's environment byte by byte: see `spawnRaw`. */
  readonly isRaw?: boolean;
}

interface CommandWork extends Program {
  readonly isRaw: boolean;
  readonly options: SpawnOptions;
}

/** The messages of the thread. */
type ThreadMessage =
  | { readonly code: string }
  | { readonly status: number | null; readonly name: string | null };

/** Cells of the memory that is shared with the thread: the phase it is in, and the pid of the process that it has started. */
const phaseCell = 0;
const pidCell = 1;
const isReady = 1;
const started = 2;
const released = 3;

// The thread starts the process and then blocks. Until it continues, Node.js doesn't reap the process, so that `/proc` still tells how it
// ended.
const threadSource = `
const { parentPort, workerData } = require("node:worker_threads");
const { ChildProcess, spawn } = require("node:child_process");
const cells = new Int32Array(workerData);
const enter = (phase) => {
  Atomics.store(cells, ${phaseCell}, phase);
  Atomics.notify(cells, ${phaseCell});
};
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
  enter(${started});
  if (cells[${pidCell}] > 0) Atomics.wait(cells, ${phaseCell}, ${started});
});
enter(${isReady});`;

/**
 * Starts one process, and tells how it ended, even by a real-time signal. That needs a thread and `/proc`; only Linux has real-time signals
 * anyway.
 */
export class ProcessStarter {
  #thread: Worker | undefined;
  readonly #cells = new Int32Array(new SharedArrayBuffer(8));

  /** Starts the thread, which takes a while; the caller can do something else in the meantime. */
  constructor() {
    if (processOf(process.pid) === undefined || !hasFolder() || addressSpaceLeft() < roomForThread) return;
    // If the thread can't start, because too few threads or open files are allowed, the process is started without it.
    try {
      this.#thread = new Worker(threadSource, { eval: true, workerData: this.#cells.buffer });
    } catch {
      return;
    }
    const onEnd = (): void => {
      this.#thread = undefined;
    };
    this.#thread.on("error", onEnd);
    this.#thread.on("exit", onEnd);
  }

  /** The thread, if it can start a process now. Whatever is wrong with it is not the command's fault, and must not hold it up. */
  #readyThread(): Worker | undefined {
    if (this.#thread === undefined) return undefined;
    Atomics.wait(this.#cells, phaseCell, 0, threadPatience);
    if (this.#cells[phaseCell] === isReady) return this.#thread;
    void this.#thread.terminate();
    this.#thread = undefined;
    return undefined;
  }

  /**
   * Starts the process, before it returns.
   *
   * @returns the pid, which is `undefined` if the process could not be started, and how it will end
   */
  start(program: Program, { stdio, environment = {}, isRaw = false }: StartOptions) {
    if (isRaw) setVariables(environment);
    const env = { ...process.env, ...environment };
    const work = { ...program, isRaw, options: { stdio, detached: true, ...(!isRaw && { env }) } };
    const thread = this.#readyThread();
    return thread === undefined ? startHere(work) : this.#startInThread(thread, work);
  }

  #startInThread(thread: Worker, work: CommandWork) {
    const cells = this.#cells;
    let pid: number | undefined;
    let hasEnded = false;
    let isThreadGone = false;
    const ended = new Promise<Exit>((resolve) => {
      const settle = (exit: Exit): void => {
        clearInterval(timer);
        process.removeListener("SIGCHLD", look);
        resolve(exit);
      };
      const look = (): void => {
        // Once it has ended and was reaped, its pid may be another process's.
        const entry = pid === undefined || hasEnded ? undefined : processOf(pid);
        if (entry !== undefined && isRunning(entry)) return;
        hasEnded = true;
        const signal = (entry?.waitStatus ?? 0) & 0x7f;
        if (signal > lastNamedSignal) settle({ is: "ended", status: null, signal });
        // `/proc` shows the status 0 for a process of another user, so only the thread can tell it.
        else if (isThreadGone) settle({ is: "unknown" });
        Atomics.store(cells, phaseCell, released);
        Atomics.notify(cells, phaseCell);
      };
      /** How often this process has looked since the end. Not a time, which would pass while this process is stopped. */
      let looks = 0;
      const timer = setInterval(() => {
        look();
        if (hasEnded) looks += 1;
        if (looks * tick > patience) settle({ is: "unknown" });
      }, tick);
      process.on("SIGCHLD", look);
      thread.once("message", (message: ThreadMessage) =>
        settle("code" in message ? { is: "not-run", code: message.code } : exitOf(message)),
      );
      // Comes after its last message. If that didn't tell the end of the process, it may still be running.
      thread.once("exit", () => {
        isThreadGone = true;
        look();
      });
    });
    thread.postMessage(work);
    Atomics.wait(cells, phaseCell, isReady, patience);
    // It has failed, or is stuck, and may have started the process or not. Even a pid that is known by now is not returned, because with a
    // pid, `unknown` says that the process has ended.
    if (cells[phaseCell] === isReady)
      return { pid: undefined, ended: Promise.resolve<Exit>({ is: "unknown" }) };
    pid = cells[pidCell] || undefined;
    return { pid, ended };
  }
}

/** Whether the working directory still exists: without it, no thread can start. */
function hasFolder(): boolean {
  try {
    process.cwd();
    return true;
  } catch {
    return false;
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
