import { ProcessStarter } from "./command-process.ts";
import { CommandTree, innermostMark } from "./command-tree.ts";
import type { Ending, StopReason, Work } from "./control-channel.ts";
import { currentMoment, later, left, type Moment } from "./deadline.ts";
import { stdioWith } from "./descriptors.ts";

/** Milliseconds between two looks at the clocks. A longer timer would fire late after a suspension, because it stops with the machine. */
const tick = 500;
/** Milliseconds between two looks at processes that have to end. */
const shortTick = 20;
/** Milliseconds after which a process that was sent SIGKILL is dead, unless the system or another user keeps it. */
const deathTime = 2_000;

//   running ──the command ends──▶ ended
//      └──stop(), or the deadline is near──▶ stopping: SIGTERM, then SIGKILL ──all of its tree is dead, or can't be killed──▶ ended
type State = { readonly is: "running" } | Stopping | { readonly is: "ended"; readonly exit: Ending };

interface Stopping {
  readonly is: "stopping";
  readonly because: StopReason;
  readonly killAt: Moment;
  /** When the first SIGKILL was sent; it is repeated until all processes are dead. */
  readonly killedAt?: Moment;
  /** How the command itself has ended; others of its tree may be alive. */
  readonly exit?: Ending;
}

/**
 * A command in a session and a process group of its own. It is dead, with all that it has started (see {@link CommandTree}), before
 * somebody else can hold its lock: unless `relyUntil` moves the deadline in time, everything gets SIGTERM at the deadline less the grace
 * and the margin, and SIGKILL at the deadline less the margin.
 */
export class SupervisedCommand {
  /** Resolves when the command has ended; if it was stopped, when all that it has started is dead or can't be killed. */
  readonly ended: Promise<Ending>;
  readonly #work: Work;
  readonly #leader: number | undefined;
  readonly #tree: CommandTree | undefined;
  #until: Moment;
  #state: State = { is: "running" };
  #end: (ending: Ending) => void = () => {};
  #timer: NodeJS.Timeout | undefined;

  /** Starts the command before it returns, with this process's own standard input, output and error. */
  constructor(work: Work, starter = new ProcessStarter()) {
    this.#work = work;
    this.#until = work.until;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    const { program, descriptors, isRaw } = work;
    const { pid, ended } = starter.start(program, {
      stdio: stdioWith(descriptors),
      isRaw,
      // The fencing token of a run around this one must not be taken for this run's.
      environment: { PG_LOCKER_FENCING_TOKEN: undefined, ...work.environment },
    });
    this.#leader = pid;
    if (pid !== undefined) this.#tree = new CommandTree(pid, innermostMark());
    void ended.then((exit) => {
      this.#state = this.#state.is === "stopping" ? { ...this.#state, exit } : { is: "ended", exit };
      if (exit.is === "not-run" || pid === undefined) this.#end(exit);
      else this.#watch();
    });
    if (pid !== undefined) this.#watch();
  }

  /** The pid of the command, which is also its group and its session; `undefined` if it could not be run. */
  get leader(): number | undefined {
    return this.#leader;
  }

  /** Moves the deadline, because the lock was refreshed. A stop that has begun goes on. */
  relyUntil(until: Moment): void {
    this.#until = until;
  }

  /** Sends a signal to all processes in the command's session. */
  signal(signal: NodeJS.Signals): void {
    if (!("exit" in this.#state)) this.#tree?.signal(signal);
  }

  /** Sends SIGTERM now, and SIGKILL after `grace` milliseconds or when the deadline is near. A second call can only bring SIGKILL forward. */
  stop(because: StopReason, grace: number): void {
    const state = this.#state;
    if (state.is === "ended") return;
    const killAt = later(currentMoment(), grace);
    if (state.is === "stopping") {
      if (left(state.killAt) < left(killAt)) return;
      this.#state = { ...state, killAt };
    } else {
      this.#state = { is: "stopping", because, killAt };
      this.#tree?.signalAll("SIGTERM");
      // A stopped process would not see the SIGTERM.
      this.#tree?.signalAll("SIGCONT");
    }
    this.#watch();
  }

  /** Does what is due, and sets a timer for what comes next. */
  readonly #watch = (): void => {
    clearTimeout(this.#timer);
    const tree = this.#tree;
    if (tree === undefined) return;
    // Processes that the command has left behind keep running, unless it was being stopped.
    if (this.#state.is === "ended") {
      this.#end(this.#state.exit);
      return;
    }
    const room = left(this.#until) - this.#work.margin;
    if (this.#state.is === "running") {
      const toTerm = room - this.#work.grace;
      if (toTerm > 0) this.#timer = setTimeout(this.#watch, Math.min(toTerm, tick));
      else this.stop("deadline", this.#work.grace);
      return;
    }
    const { exit, because: stopped, killAt, killedAt = currentMoment() } = this.#state;
    const isDue = Math.min(room, left(killAt)) <= 0;
    if (isDue) {
      tree.kill();
      this.#state = { ...this.#state, killedAt };
    }
    if (exit !== undefined && !tree.isKnownAlive && tree.living.length === 0) {
      this.#end({ ...exit, stopped });
    } else if (isDue && left(killedAt) < -deathTime) {
      tree.tellOfSurvivors();
      this.#end({ ...(exit ?? { is: "ended", status: null, signal: null }), stopped });
    } else {
      this.#timer = setTimeout(this.#watch, shortTick);
    }
  };
}
