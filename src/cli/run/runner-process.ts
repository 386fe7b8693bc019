import { type ChildProcess, type SendHandle, spawn } from "node:child_process";
import { once } from "node:events";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { CommandTree } from "./command-tree.ts";
import type { Ending, FromRunner, ToRunner, Work } from "./control-channel.ts";
import { currentMoment, later, left, type Moment } from "./deadline.ts";
import { type Inherited, stdioWith } from "./descriptors.ts";
import { isRawEnvironment, spawnRaw } from "./environment.ts";

/** Milliseconds beyond the grace in which a runner that was told to stop has done so, unless it is itself stopped. */
const patience = 5_000;
/** Milliseconds for a signal to be passed on. */
const patienceForSignal = 1_000;
/** Milliseconds for what a runner said last to be read, once it has exited. */
const lastWords = 500;
/** Milliseconds in which a runner has started its command, or said why not: more than it has to start its thread. */
const startTime = 15_000;
/** Milliseconds in which whoever is sent SIGKILL is dead, unless the system or another user keeps it. */
const deathTime = 2_000;

/** What became of a command; or that its runner was killed, and the command with it; or that it never started the command. */
export type RunnerEnding = Ending | { readonly is: "runner-killed" } | { readonly is: "runner-silent" };

//   idle ──run()──▶ starting ──it says so──▶ running ──it says how that ended──▶ over
//                      └──it says why it could not───────────────────────────────▲
type State =
  | { readonly is: "idle" | "over" }
  | { readonly is: "starting"; readonly mark: string; readonly late: NodeJS.Timeout }
  | { readonly is: "running"; readonly tree: CommandTree };

/** The runner, as the keeper sees it: see `runner.ts`. */
export class RunnerProcess implements AsyncDisposable {
  readonly ended: Promise<RunnerEnding>;
  readonly #child: ChildProcess;
  readonly #exited: Promise<unknown>;
  #signalled: () => void = () => {};
  #state: State = { is: "idle" };
  #overdue: NodeJS.Timeout | undefined;

  private constructor(child: ChildProcess) {
    this.#child = child;
    this.#exited = once(child, "exit").catch(() => {});
    // What was said last is read before the event `close`; which on Node.js 24 may stay away where a socket was sent.
    const closed = once(child, "close").catch(() => {});
    const said = new Promise<Ending>((resolve) => {
      child.on("message", (message: FromRunner) => {
        if (message.is === "signalled") this.#signalled();
        else if (message.is === "started") this.#started(message.leader);
        else resolve(this.#over(message));
      });
    });
    const gone = this.#exited
      // Nothing else keeps this process from its end, once it has said what became of the command.
      .then(() => Promise.race([said, closed, delay(lastWords, undefined, { ref: false })]))
      .then(() => this.#killCommand());
    this.ended = Promise.race([said, gone]);
  }

  /**
   * Starts one that waits for its command, and gets what this process was started with. Unless `ref()` says so, it doesn't keep this
   * process from its end, with which it ends.
   *
   * @throws what the system says if it can't be started
   */
  static async start(inherited: Inherited): Promise<RunnerProcess> {
    const child = spawnRunner(inherited);
    // Not to be signalled, ever: to Node.js one that had no file left to be started with has the number 0, which means all of this
    // process's own group.
    if (child.pid === undefined) throw (await once(child, "error"))[0];
    child.unref();
    child.channel?.unref();
    return new RunnerProcess(child);
  }

  /** From now on this process doesn't end before it. */
  ref(): void {
    this.#child.ref();
    this.#child.channel?.ref();
  }

  /** Has it run the command, and keep the socket open until that has ended. */
  run(work: Work, socket: SendHandle): void {
    // It may be stopped; or it may have got no copy of the socket, if it may open no more files, and then the message doesn't arrive.
    const late = setTimeout(() => this.#child.kill("SIGKILL"), startTime);
    this.#state = { is: "starting", mark: work.mark, late };
    this.#tell({ is: "run", work }, socket);
  }

  relyUntil(until: Moment): void {
    this.#tell({ is: "until", until });
  }

  /** Resolves when the command has the signal, or the runner is slow to say so. */
  async signal(signal: NodeJS.Signals): Promise<void> {
    // One that is stopped could pass nothing on.
    this.#child.kill("SIGCONT");
    const signalled = new Promise<void>((resolve) => {
      this.#signalled = resolve;
    });
    this.#tell({ is: "signal", signal });
    await Promise.race([signalled, delay(patienceForSignal, undefined, { ref: false })]);
  }

  /** SIGTERM now, SIGKILL after so many milliseconds, for everything that the command has started. */
  stop(grace: number): void {
    this.#child.kill("SIGCONT");
    this.#tell({ is: "stop", grace });
    this.#overdue ??= setTimeout(() => this.#child.kill("SIGKILL"), grace + patience).unref();
  }

  /** Ends it; what it runs is not its to end any more. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#overdue);
    if (this.#state.is === "starting") clearTimeout(this.#state.late);
    this.#child.kill("SIGKILL");
    await this.#exited;
  }

  #started(leader: number): void {
    if (this.#state.is !== "starting") return;
    clearTimeout(this.#state.late);
    this.#state = { is: "running", tree: new CommandTree(leader, this.#state.mark) };
  }

  #over(ending: Ending): Ending {
    if (this.#state.is === "starting") clearTimeout(this.#state.late);
    this.#state = { is: "over" };
    return ending;
  }

  #tell(message: ToRunner, socket?: SendHandle): void {
    // One that has gone is noticed by that.
    if (this.#child.connected) this.#child.send(message, socket, {}, () => {});
  }

  async #killCommand(): Promise<RunnerEnding> {
    if (this.#state.is !== "running") return { is: "runner-silent" };
    const { tree } = this.#state;
    const deadline = later(currentMoment(), deathTime);
    while (left(deadline) > 0) {
      tree.kill();
      if (tree.living.length === 0) break;
      await delay(20);
    }
    tree.tellOfSurvivors();
    return { is: "runner-killed" };
  }
}

function spawnRunner({ handed, free }: Inherited): ChildProcess {
  const program = fileURLToPath(new URL("./runner.js", import.meta.url));
  const options = { stdio: stdioWith(handed, free), detached: true };
  if (!isRawEnvironment()) return spawn(process.execPath, [program], options);
  const channel = { NODE_CHANNEL_FD: `${free}`, NODE_CHANNEL_SERIALIZATION_MODE: "json" };
  Object.assign(process.env, channel);
  try {
    return spawnRaw(process.execPath, [program], options);
  } finally {
    for (const name of Object.keys(channel)) delete process.env[name];
  }
}
