import { spawn } from "node:child_process";
import { codeOf } from "../system-error.ts";
import type { Ending, StopReason, Work } from "./control-channel.ts";
import { later, left, type Moment, now } from "./deadline.ts";
import { groupLives, signalGroup } from "./process-group.ts";

/** Milliseconds between two looks at the clocks: a timer sleeps on while the machine is suspended, and so would be late by that. */
const tick = 500;
/** Milliseconds between two looks at a group that is to end. */
const shortTick = 20;

//   running ──the command ends──▶ ended
//      └──stop(), or the deadline is near──▶ stopping: SIGTERM, then SIGKILL ──all of the group is dead──▶ ended
type Stopping = { readonly because: StopReason; readonly killAt: Moment };

/**
 * A command in a process group of its own, which is dead before the lock that it runs under can be another's: unless there is
 * newer word of the lock in time, the group gets SIGTERM at the deadline less the grace and the margin, and SIGKILL at the
 * deadline less the margin.
 */
export class SupervisedCommand {
  /** Resolves when the command has ended; where it was stopped, when all of its group has. */
  readonly ended: Promise<Ending>;
  readonly #work: Work;
  readonly #group: number | undefined;
  #until: Moment;
  #stopping: Stopping | undefined;
  #exit: Ending | undefined;
  #end: (ending: Ending) => void = () => {};
  #timer: NodeJS.Timeout | undefined;

  /** Starts it, with this process's own standard input, output and error, in this very step. */
  constructor(work: Work) {
    this.#work = work;
    this.#until = work.until;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
    this.#group = this.#start();
    if (this.#group !== undefined) this.#watch();
  }

  /** The number of its process group; `undefined` where it could not be run. */
  get group(): number | undefined {
    return this.#group;
  }

  /** There is newer word of the lock. What is being stopped is stopped all the same. */
  believeUntil(until: Moment): void {
    this.#until = until;
  }

  signal(signal: NodeJS.Signals): void {
    if (this.#group !== undefined && this.#exit === undefined) signalGroup(this.#group, signal);
  }

  /** SIGTERM now, SIGKILL after so many milliseconds or when the deadline is near. A second call may only bring that forward. */
  stop(because: StopReason, grace: number): void {
    if (this.#group === undefined || (this.#exit !== undefined && this.#stopping === undefined)) return;
    const killAt = later(now(), grace);
    if (this.#stopping !== undefined && left(this.#stopping.killAt) < left(killAt)) return;
    if (this.#stopping === undefined) {
      signalGroup(this.#group, "SIGTERM");
      // One that is stopped would not see it.
      signalGroup(this.#group, "SIGCONT");
    }
    this.#stopping = { because: this.#stopping?.because ?? because, killAt };
    this.#watch();
  }

  #start(): number | undefined {
    const { file, args, environment } = this.#work;
    const notRun = (error: unknown): void => this.#end({ is: "not-run", code: codeOf(error) ?? "" });
    try {
      const child = spawn(file, args, {
        stdio: "inherit",
        detached: true,
        // That of a run around this one is not this one's.
        env: { ...process.env, PG_LOCKER_FENCING_TOKEN: undefined, ...environment },
      });
      child.once("error", notRun);
      child.once("exit", (status, signal) => {
        this.#exit = { is: "ended", status, signal };
        this.#watch();
      });
      return child.pid;
    } catch (error) {
      notRun(error);
      return undefined;
    }
  }

  /** Does what is due, and sets the timer for what is next. */
  readonly #watch = (): void => {
    clearTimeout(this.#timer);
    const group = this.#group;
    if (group === undefined) return;
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
    const { killAt, because } = this.#stopping;
    if (Math.min(room, left(killAt)) <= 0) signalGroup(group, "SIGKILL");
    if (this.#exit?.is === "ended" && !groupLives(group)) this.#end({ ...this.#exit, stopped: because });
    else this.#timer = setTimeout(this.#watch, shortTick);
  };
}
