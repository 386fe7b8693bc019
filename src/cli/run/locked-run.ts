import { hasCode } from "../../contract/caught-error.ts";
import { quote } from "../../contract/plain-text.ts";
import type { Lock } from "../../index.ts";
import { exitStatus } from "../exit-status.ts";
import { Failure } from "../failure.ts";
import { currentMoment, later } from "./deadline.ts";
import type { Inherited } from "./descriptors.ts";
import { isRawEnvironment } from "./environment.ts";
import type { LockSession } from "./lock-session.ts";
import { atMost, type PassedSignals, unlessAborted } from "./passed-signals.ts";
import { notRun, type RunPlan } from "./plan.ts";
import type { RunnerEnding, RunnerProcess } from "./runner-process.ts";

/** Milliseconds between SIGTERM and SIGKILL if somebody else may already hold the lock. */
const shortGrace = 2_000;
/** Milliseconds for the release. After that, the end of this process frees the lock. */
const releaseTime = 3_000;
/** The fraction of the TTL after which the lock is refreshed. */
const refreshShare = 1 / 3;

const notRunYet = "the command was not run";

/** Has the runner run the command under a lock, keeps the lock until the command has ended, and releases it. */
export class LockedRun {
  readonly #plan: RunPlan;
  readonly #lock: Lock;
  readonly #session: LockSession;
  readonly #runner: RunnerProcess;
  readonly #inherited: Inherited;
  #timer: NodeJS.Timeout | undefined;

  constructor(
    plan: RunPlan,
    parts: { lock: Lock; session: LockSession; runner: RunnerProcess; inherited: Inherited },
  ) {
    this.#plan = plan;
    this.#lock = parts.lock;
    this.#session = parts.session;
    this.#runner = parts.runner;
    this.#inherited = parts.inherited;
  }

  async keep(signals: PassedSignals): Promise<number> {
    const { interrupted } = signals;
    try {
      const until = await unlessAborted(this.#refresh(), interrupted);
      interrupted.throwIfAborted();
      this.#run(until);
      this.#describe();
      signals.passTo((signal) => this.#runner.signal(signal));
      this.#lock.signal.addEventListener("abort", this.#onLoss);
      if (this.#lock.signal.aborted) this.#onLoss();
      return await this.#statusOf(await this.#runner.ended, signals);
    } catch (error) {
      // The lock was lost before the command was run.
      if (!hasCode(error, "LOCK_NOT_HELD")) throw error;
      throw this.#lost(notRunYet);
    } finally {
      clearTimeout(this.#timer);
    }
  }

  #run(until: ReturnType<typeof currentMoment>): void {
    const { program, grace, margin, key, namespace } = this.#plan;
    const { id, fencingToken } = this.#lock;
    const environment = {
      PG_LOCKER_KEY: key,
      PG_LOCKER_ID: `${id}`,
      PG_LOCKER_NAMESPACE: `${namespace}`,
      ...(fencingToken !== undefined && { PG_LOCKER_FENCING_TOKEN: `${fencingToken}` }),
    };
    const { socket } = this.#session;
    if (socket === undefined) throw new Error("The session of the lock has no socket to hand on");
    this.#runner.run(
      {
        program,
        descriptors: this.#inherited.handed,
        isRaw: isRawEnvironment(),
        environment,
        until,
        grace,
        margin,
      },
      socket,
    );
  }

  /** @returns when the server may free the lock @throws {LockNotHeldError} it is lost */
  async #refresh(): Promise<ReturnType<typeof currentMoment>> {
    const sentAt = currentMoment();
    this.#session.asked();
    await this.#lock.refresh();
    const beat = (): void => {
      this.#refresh().then(
        (until) => {
          this.#runner.relyUntil(until);
          this.#describe();
        },
        // The lock was released in the meantime; or it is lost, as its signal tells.
        () => {},
      );
    };
    this.#timer = setTimeout(beat, this.#plan.ttl * refreshShare);
    return later(sentAt, this.#plan.ttl);
  }

  /** Sends the description again, because each refresh is a statement that replaces it in pg_stat_activity. */
  #describe(): void {
    const { description } = this.#plan;
    if (description !== undefined) void this.#session.describe(description);
  }

  readonly #onLoss = (): void => {
    const { grace } = this.#plan;
    // If the link is silent, the server hasn't seen the session end either: the runner's copy keeps it open, and the deadline holds.
    this.#runner.stop(this.#session.isSilent ? grace : Math.min(grace, shortGrace));
  };

  async #statusOf(ending: RunnerEnding, signals: PassedSignals): Promise<number> {
    clearTimeout(this.#timer);
    this.#lock.signal.removeEventListener("abort", this.#onLoss);
    const isHeld = await this.#release(signals);
    const stopped = "stopped" in ending ? ending.stopped : undefined;
    if (stopped === "deadline") {
      throw new Failure(
        exitStatus.lockLost,
        `Lock ${quote(this.#plan.key)} could not be refreshed in time: the command was stopped before ` +
          "somebody else could get the lock",
      );
    }
    if (!isHeld) {
      if (ending.is === "not-started") throw this.#lost(notRunYet);
      throw this.#lost(stopped !== undefined ? "the command was stopped" : "the command had ended by itself");
    }
    if (ending.is === "not-started") throw this.#lost(notRunYet);
    if (ending.is === "runner-silent") {
      throw new Failure(
        exitStatus.failed,
        "The process that was to run the command did not start it: it was killed or stopped, or the system allows too few open files or processes, or too little memory (see ulimit -n, -u and -v)",
      );
    }
    if (ending.is === "runner-killed") {
      throw new Failure(
        exitStatus.failed,
        "The process that ran the command was killed, and the command with it",
      );
    }
    if (ending.is === "unknown") {
      throw new Failure(
        exitStatus.failed,
        "The command has ended, but its exit status is not known: the thread of pg-locker that had started it failed",
      );
    }
    if (ending.is === "not-run") {
      const { status, sentence } = notRun(this.#plan.file, ending.code);
      throw new Failure(status, sentence);
    }
    const { status, signal } = ending;
    return signal === null ? (status ?? exitStatus.failed) : exitStatus.signalled + signal;
  }

  /** @returns whether the lock was held until now; if the server doesn't answer in time, whether it was held as far as we know */
  async #release(signals: PassedSignals): Promise<boolean> {
    const { held } = this.#lock;
    const released = this.#lock.release().then(
      () => true,
      (error: unknown) => {
        if (hasCode(error, "LOCK_NOT_HELD")) return false;
        throw error;
      },
    );
    return (await atMost(releaseTime, signals, released)) ?? held;
  }

  #lost(what: string): Failure {
    const { reason } = this.#lock.signal;
    const because = reason instanceof Error ? reason.message : `Lock ${quote(this.#plan.key)} was lost`;
    return new Failure(exitStatus.lockLost, `${because}; ${what}`, { cause: reason });
  }
}
