import { ProcessStarter } from "./command-process.ts";
import { CommandTree, markVariable } from "./command-tree.ts";
import type { Ending, StopReason, Work } from "./control-channel.ts";
import { currentMoment, later, left, type Moment } from "./deadline.ts";
import { stdioWith } from "./descriptors.ts";

/** Milliseconds between two looks at the clocks: a timer sleeps on while the machine is suspended, and so would be late by that. */
const tick = 500;
/** Milliseconds between two looks at processes that are to end. */
const shortTick = 20;
/** Milliseconds in which whoever is sent SIGKILL is dead, unless the system or another user keeps it. */
const deathTime = 2_000;

//   running ──the command ends──▶ ended
//      └──stop(), or the deadline is near──▶ stopping: SIGTERM, then SIGKILL ──all of its tree is dead, or can't be killed──▶ ended
interface Stopping {
  readonly because: StopReason;
  readonly killAt: Moment;
  /** Since when everything gets SIGKILL, again and again. */
  readonly killedAt?: Moment;
}

/**
 * A command in a session and a process group of its own, which is dead before the lock that it runs under can be another's, with all
 * that it has started (see {@link CommandTree}): unless there is newer word of the lock in time, everything gets SIGTERM at the
 * deadline less the grace and the margin, and SIGKILL at the deadline less the margin.
 */
export class SupervisedCommand {
  /** Resolves when the command has ended; if it was stopped, when all that it has started is dead, or can't be killed. */
  readonly ended: Promise<Ending>;
  readonly #work: Work;
  readonly #leader: number | undefined;
  readonly #tree: CommandTree | undefined;
  #until: Moment;
  #stopping: Stopping | undefined;
  #exit: Ending | undefined;
  #end: (ending: Ending) => void = () => {};
  #timer: NodeJS.Timeout | undefined;

  /** Starts it, with this process's own standard input, output and error, in this very step. */
  constructor(work: Work, starter = new ProcessStarter()) {
    this.#work = work;
    this.#until = work.until;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    const { program, descriptors, isRaw, mark } = work;
    const marks = [process.env[markVariable], mark].filter((each) => each);
    const { pid, ended } = starter.start(program, {
      stdio: stdioWith(descriptors),
      isRaw,
      // The token of a run around this one is not this one's.
      environment: {
        PG_LOCKER_FENCING_TOKEN: undefined,
        ...work.environment,
        [markVariable]: marks.join("/"),
      },
    });
    this.#leader = pid;
    if (pid !== undefined) this.#tree = new CommandTree(pid, mark);
    void ended.then((exit) => {
      this.#exit = exit;
      if (exit.is === "not-run") this.#end(exit);
      else this.#watch();
    });
    if (pid !== undefined) this.#watch();
  }

  /** The number of its process, of its group and of its session; `undefined` if it could not be run. */
  get leader(): number | undefined {
    return this.#leader;
  }

  /** There is newer word of the lock. What is being stopped is stopped all the same. */
  relyUntil(until: Moment): void {
    this.#until = until;
  }

  /** For all of the command's session. */
  signal(signal: NodeJS.Signals): void {
    if (this.#exit === undefined) this.#tree?.signal(signal);
  }

  /** SIGTERM now, SIGKILL after so many milliseconds or when the deadline is near. A second call may only bring that forward. */
  stop(because: StopReason, grace: number): void {
    if (this.#exit !== undefined && this.#stopping === undefined) return;
    const killAt = later(currentMoment(), grace);
    if (this.#stopping !== undefined && left(this.#stopping.killAt) < left(killAt)) return;
    if (this.#stopping === undefined) {
      this.#tree?.signalAll("SIGTERM");
      // What is stopped would not see it.
      this.#tree?.signalAll("SIGCONT");
    }
    this.#stopping = { ...this.#stopping, because: this.#stopping?.because ?? because, killAt };
    this.#watch();
  }

  /** Does what is due, and sets the timer for what is next. */
  readonly #watch = (): void => {
    clearTimeout(this.#timer);
    const tree = this.#tree;
    if (tree === undefined) return;
    // What it has left behind runs on, unless it was to be stopped.
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
