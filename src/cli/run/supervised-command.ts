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
interface Stopping {
  readonly because: StopReason;
  readonly killAt: Moment;
  /** When the first SIGKILL was sent; it is repeated until all processes are dead. */
  readonly killedAt?: Moment;
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
  #stopping: Stopping | undefined;
  #exit: Ending | undefined;
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
      this.#exit = exit;
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
    if (this.#exit === undefined) this.#tree?.signal(signal);
  }

  /** Sends SIGTERM now, and SIGKILL after `grace` milliseconds or when the deadline is near. A second call can only bring SIGKILL forward. */
  stop(because: StopReason, grace: number): void {
    if (this.#exit !== undefined && this.#stopping === undefined) return;
    const killAt = later(currentMoment(), grace);
    if (this.#stopping !== undefined && left(this.#stopping.killAt) < left(killAt)) return;
    if (this.#stopping === undefined) {
      this.#tree?.signalAll("SIGTERM");
      // A stopped process would not see the SIGTERM.
      this.#tree?.signalAll("SIGCONT");
    }
    this.#stopping = { ...this.#stopping, because: this.#stopping?.because ?? because, killAt };
    this.#watch();
  }

  /** Does what is due, and sets a timer for what comes next. */
  readonly #watch = (): void => {
    clearTimeout(this.#timer);
    const tree = this.#tree;
    if (tree === undefined) return;
    // Processes that the command has left behind keep running, unless it was being stopped.
    if (this.#stopping === undefined && this.#exit !== undefined) {
      this.#end(this.#exit);
      return;
    }
    const room = left(this.#until) - this.#work.margin;
    if (this.#stopping === undefined) {
      const toTerm = room - this.#work.grace;
      if (toTerm > 0) this.#timer = setTimeout(this.#watch, Math.min(toTerm, tick));
      else this.stop("deadline", this.#work.grace);
      return;
    }
    const isDue = Math.min(room, left(this.#stopping.killAt)) <= 0;
    if (isDue) {
      tree.kill();
      this.#stopping = { ...this.#stopping, killedAt: this.#stopping.killedAt ?? currentMoment() };
    }
    if (this.#exit !== undefined && !tree.isKnownAlive && tree.living.length === 0) {
      this.#end({ ...this.#exit, stopped: this.#stopping.because });
    } else if (isDue && this.#stopping.killedAt !== undefined && left(this.#stopping.killedAt) < -deathTime) {
      const ended = this.#exit ?? { is: "ended", status: null, signal: null };
      tree.tellOfSurvivors();
      this.#end({ ...ended, stopped: this.#stopping.because });
    } else {
      this.#timer = setTimeout(this.#watch, shortTick);
    }
  };
}
