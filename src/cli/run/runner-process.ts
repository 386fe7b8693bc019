import { type ChildProcess, type SendHandle, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { CommandTree, marksWith, markVariable } from "./command-tree.ts";
import type { Ending, FromRunner, NotStarted, ToRunner, Work } from "./control-channel.ts";
import { currentMoment, later, left, type Moment } from "./deadline.ts";
import { type Inherited, stdioWith } from "./descriptors.ts";
import { isRawEnvironment, setVariables, spawnRaw } from "./environment.ts";

/** How many milliseconds after the grace a runner that was told to stop has surely done so, unless it is itself stopped. */
const patience = 5_000;
/** Milliseconds in which a signal has to be passed on. */
const patienceForSignal = 1_000;
/** Milliseconds for the last message of a runner to arrive after it has exited. */
const lastWords = 500;
/** Milliseconds in which a runner has to start its command, or say why not: more than it may take for its thread. */
const startTime = 15_000;
/** Milliseconds after which a process that was sent SIGKILL is dead, unless the system or another user keeps it. */
const deathTime = 2_000;

/** How the command ended; or the runner was killed, and the command with it; or the runner never started the command. */
export type RunnerEnding =
  | Ending
  | NotStarted
  | { readonly is: "runner-killed" }
  | { readonly is: "runner-silent" };

//   idle ──run()──▶ handing the socket ──it has it──▶ starting ──it says so──▶ running ──it says how that ended──▶ over
//                           └──────────── it says why it did not ───┴─────────────────────────────────────────────▲
type State =
  | { readonly is: "idle" | "over" }
  | { readonly is: "handing"; readonly work: Work; readonly late: NodeJS.Timeout }
  | { readonly is: "starting"; readonly late: NodeJS.Timeout }
  | { readonly is: "running"; readonly tree: CommandTree };

/** The runner, as the run sees it; its program is `runner.ts`. */
export class RunnerProcess implements AsyncDisposable {
  readonly ended: Promise<RunnerEnding>;
  readonly #child: ChildProcess;
  /** The mark of the runner, and of all that its command starts. */
  readonly #mark: string;
  readonly #exited: Promise<unknown>;
  #signalled: () => void = () => {};
  #state: State = { is: "idle" };
  #overdue: NodeJS.Timeout | undefined;

  private constructor(child: ChildProcess, mark: string) {
    this.#child = child;
    this.#mark = mark;
    this.#exited = once(child, "exit").catch(() => {});
    // Before the event `close`, the last message was read. On Node.js 24, `close` may never come if a socket was sent.
    const closed = once(child, "close").catch(() => {});
    const said = new Promise<Ending | NotStarted>((resolve) => {
      child.on("message", (message: FromRunner) => {
        if (message.is === "holding") this.#start();
        else if (message.is === "signalled") this.#signalled();
        else if (message.is === "started") this.#started(message.leader);
        else resolve(this.#over(message));
      });
    });
    const gone = this.#exited
      // Once the runner has said how the command ended, nothing else keeps this process alive.
      .then(() => Promise.race([said, closed, delay(lastWords, undefined, { ref: false })]))
      .then(() => this.#killCommand());
    this.ended = Promise.race([said, gone]);
    // It ends by itself when this process has gone, unless it hangs while Node.js starts in it, as with too few threads.
    process.once("exit", () => {
      if (this.#state.is === "idle") child.kill("SIGKILL");
    });
  }

  /**
   * Starts a runner that waits for its command and has the descriptors that this process inherited. Until `ref()`, it doesn't keep this
   * process alive, and it ends with this process.
   *
   * @throws the system's error if the runner can't be started
   */
  static async start(inherited: Inherited): Promise<RunnerProcess> {
    const mark = await newMark();
    const child = spawnRunner(inherited, mark);
    // Never signal this child: if no file could be opened for it, Node.js takes its pid for 0, and a signal to 0 goes to this process's
    // whole group.
    if (child.pid === undefined) throw (await once(child, "error"))[0];
    child.unref();
    child.channel?.unref();
    return new RunnerProcess(child, mark);
  }

  /** From now on, the runner keeps this process alive. */
  ref(): void {
    this.#child.ref();
    this.#child.channel?.ref();
  }

  /** Has the runner run the command, and keep the socket open until the command has ended. */
  run(work: Work, socket: SendHandle): void {
    // The runner may be stopped; or the message may be lost, because the runner may open too few files for its copy of the socket.
    const late = setTimeout(() => this.#child.kill("SIGKILL"), startTime);
    this.#state = { is: "handing", work, late };
    this.#tell({ is: "hold" }, socket);
  }

  #start(): void {
    if (this.#state.is !== "handing") return;
    const { work, late } = this.#state;
    this.#state = { is: "starting", late };
    this.#tell({ is: "run", work });
  }

  relyUntil(until: Moment): void {
    if (this.#state.is === "handing") this.#state = { ...this.#state, work: { ...this.#state.work, until } };
    else this.#tell({ is: "until", until });
  }

  /** Resolves when the command has got the signal, or the runner takes too long. */
  async signal(signal: NodeJS.Signals): Promise<void> {
    // A stopped runner could pass nothing on.
    this.#child.kill("SIGCONT");
    const signalled = new Promise<void>((resolve) => {
      this.#signalled = resolve;
    });
    this.#tell({ is: "signal", signal });
    await Promise.race([signalled, delay(patienceForSignal, undefined, { ref: false })]);
  }

  /** Sends SIGTERM to everything that the command has started, and SIGKILL `grace` milliseconds later. */
  stop(grace: number): void {
    this.#child.kill("SIGCONT");
    this.#tell({ is: "stop", grace });
    this.#overdue ??= setTimeout(() => this.#child.kill("SIGKILL"), grace + patience).unref();
  }

  /** Ends the runner. By then its command has ended, or isn't to be ended. */
  async [Symbol.asyncDispose](): Promise<void> {
    clearTimeout(this.#overdue);
    if ("late" in this.#state) clearTimeout(this.#state.late);
    this.#child.kill("SIGKILL");
    await this.#exited;
  }

  #started(leader: number): void {
    if (this.#state.is !== "starting") return;
    clearTimeout(this.#state.late);
    this.#state = { is: "running", tree: new CommandTree(leader, this.#mark) };
  }

  #over<E extends Ending | NotStarted>(ending: E): E {
    if ("late" in this.#state) clearTimeout(this.#state.late);
    this.#state = { is: "over" };
    // It has nothing left to do, and would take longer to end by itself.
    this.#child.kill("SIGKILL");
    return ending;
  }

  #tell(message: ToRunner, socket?: SendHandle): void {
    // If the runner has gone, `ended` says so.
    if (this.#child.connected) this.#child.send(message, socket, {}, () => {});
  }

  async #killCommand(): Promise<RunnerEnding> {
    if (this.#state.is !== "starting" && this.#state.is !== "running") return { is: "runner-silent" };
    // The runner may have been killed between the start of the command and its word of that.
    const tree = this.#state.is === "running" ? this.#state.tree : new CommandTree(undefined, this.#mark);
    if (this.#state.is === "starting" && tree.living.length === 0) return { is: "runner-silent" };
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

/** A UUID. Linux has one to read; `node:crypto` would delay the runner by the time that it takes to load. */
async function newMark(): Promise<string> {
  try {
    return readFileSync("/proc/sys/kernel/random/uuid", "latin1").trim();
  } catch {
    const { randomUUID } = await import("node:crypto");
    return randomUUID();
  }
}

/** Starts the runner with its mark, so that even a command that it has just forked has it. */
function spawnRunner({ handed, free }: Inherited, mark: string): ChildProcess {
  const program = fileURLToPath(new URL("./runner.js", import.meta.url));
  const options = { stdio: stdioWith(handed, free), detached: true };
  const marks = { [markVariable]: marksWith(mark) };
  if (!isRawEnvironment()) {
    return spawn(process.execPath, [program], { ...options, env: { ...process.env, ...marks } });
  }
  const channel = { NODE_CHANNEL_FD: `${free}`, NODE_CHANNEL_SERIALIZATION_MODE: "json" };
  const outerMarks = { [markVariable]: process.env[markVariable] };
  setVariables({ ...channel, ...marks });
  try {
    return spawnRaw(process.execPath, [program], options);
  } finally {
    setVariables({ NODE_CHANNEL_FD: undefined, NODE_CHANNEL_SERIALIZATION_MODE: undefined, ...outerMarks });
  }
}
