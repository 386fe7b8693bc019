import { constants } from "node:os";
import { type Lock, LockNotAcquiredError, LockNotHeldError, PostgresLocker } from "../../index.ts";
import type { Values } from "../command.ts";
import { connect } from "../database.ts";
import { exitStatus } from "../exit-status.ts";
import { Failure } from "../failure.ts";
import { later, now } from "./deadline.ts";
import { LockSession } from "./lock-session.ts";
import { Interrupted, PassedSignals } from "./passed-signals.ts";
import { notRun, type RunPlan } from "./plan.ts";
import { type RunnerEnding, RunnerProcess } from "./runner-process.ts";

/** Milliseconds between SIGTERM and SIGKILL where the lock may be another's already. */
const shortGrace = 2_000;
/** Of the TTL, after which the lock is refreshed. */
const refreshShare = 1 / 3;

/**
 * Takes the lock, has the runner run the command, keeps the lock for as long as that takes, and gives it back.
 *
 * @returns the status of the command
 * @throws {Failure} the command could not be run, the lock was lost, or the runner was killed
 * @throws what a locker throws; then the command was not run
 */
export async function runUnderLock(plan: RunPlan, values: Values): Promise<number> {
  using signals = new PassedSignals();
  // It starts while the lock is being taken.
  await using runner = RunnerProcess.start();
  try {
    await using database = await connect(values, { max: 1, signal: signals.interrupted });
    using session = new LockSession(database.pool);
    await using locker = new PostgresLocker({
      pool: database.pool,
      namespace: plan.namespace,
      sessions: "dedicated",
      ttlEnforcement: "server",
      pooler: plan.how.pooler,
      ...(plan.recoveryGrace !== undefined && { recoveryGrace: plan.recoveryGrace }),
    });
    const lock = await acquire(locker, plan, signals.interrupted);
    return await new Keeper(plan, { lock, session, runner }).keep(signals);
  } catch (error) {
    if (error instanceof Interrupted) return error.status;
    if (plan.conflictStatus !== undefined && isConflict(error)) {
      throw new Failure(plan.conflictStatus, error.message, { cause: error });
    }
    throw error;
  }
}

function acquire(locker: PostgresLocker, plan: RunPlan, signal: AbortSignal): Promise<Lock> {
  const { key, mode, ttl, wait, how } = plan;
  return locker.acquire(key, { mode, ttl, wait, signal, fencing: how.fencing && mode === "exclusive" });
}

function isConflict(error: unknown): error is LockNotAcquiredError {
  return (
    error instanceof LockNotAcquiredError && (error.reason === "held" || error.reason === "wait-timeout")
  );
}

class Keeper {
  readonly #plan: RunPlan;
  readonly #lock: Lock;
  readonly #session: LockSession;
  readonly #runner: RunnerProcess;
  #timer: NodeJS.Timeout | undefined;

  constructor(plan: RunPlan, parts: { lock: Lock; session: LockSession; runner: RunnerProcess }) {
    this.#plan = plan;
    this.#lock = parts.lock;
    this.#session = parts.session;
    this.#runner = parts.runner;
  }

  async keep(signals: PassedSignals): Promise<number> {
    const { interrupted } = signals;
    try {
      const until = await this.#refresh();
      interrupted.throwIfAborted();
      this.#run(until);
      signals.passTo((signal) => this.#runner.signal(signal));
      this.#lock.signal.addEventListener("abort", this.#onLoss);
      if (this.#lock.signal.aborted) this.#onLoss();
      return await this.#statusOf(await this.#runner.ended);
    } catch (error) {
      // Not run at all, for whatever reason.
      if (!(error instanceof LockNotHeldError)) throw error;
      throw this.#lost("the command was not run");
    } finally {
      clearTimeout(this.#timer);
      await this.#lock[Symbol.asyncDispose]();
    }
  }

  #run(until: ReturnType<typeof now>): void {
    const { file, args, grace, margin, key, namespace } = this.#plan;
    const { id, fencingToken } = this.#lock;
    const environment = {
      PG_LOCKER_KEY: key,
      PG_LOCKER_ID: `${id}`,
      PG_LOCKER_NAMESPACE: `${namespace}`,
      ...(fencingToken !== undefined && { PG_LOCKER_FENCING_TOKEN: `${fencingToken}` }),
    };
    const { socket } = this.#session;
    if (socket === undefined) throw new Error("The session of the lock has no socket to hand on");
    this.#runner.run({ file, args, environment, until, grace, margin }, socket);
  }

  /** @returns when the server may free the lock @throws {LockNotHeldError} it is lost */
  async #refresh(): Promise<ReturnType<typeof now>> {
    const sentAt = now();
    this.#session.asked();
    await this.#lock.refresh();
    const beat = (): void => {
      this.#refresh().then(
        (until) => this.#runner.believeUntil(until),
        // It was given back meanwhile; or it is lost, which its signal tells.
        () => {},
      );
    };
    this.#timer = setTimeout(beat, this.#plan.ttl * refreshShare);
    return later(sentAt, this.#plan.ttl);
  }

  readonly #onLoss = (): void => {
    const { grace } = this.#plan;
    // Of a link that is silent, the server has seen no end either: the runner keeps it open, and goes by the deadline.
    this.#runner.stop(this.#session.isSilent ? grace : Math.min(grace, shortGrace));
  };

  async #statusOf(ending: RunnerEnding): Promise<number> {
    clearTimeout(this.#timer);
    this.#lock.signal.removeEventListener("abort", this.#onLoss);
    const isHeld = await this.#release();
    if (ending.is === "ended" && ending.stopped === "deadline") {
      throw new Failure(
        exitStatus.lockLost,
        `Lock ${JSON.stringify(this.#plan.key)} could not be refreshed in time: the command was stopped before ` +
          "the lock could be another's",
      );
    }
    if (!isHeld) {
      const stopped = ending.is === "ended" && ending.stopped !== undefined;
      throw this.#lost(stopped ? "the command was stopped" : "the command had ended by itself");
    }
    if (ending.is === "runner-killed") {
      throw new Failure(
        exitStatus.failed,
        "The process that ran the command was killed, and the command with it",
      );
    }
    if (ending.is === "not-run") {
      const { status, sentence } = notRun(this.#plan.file, ending.code);
      throw new Failure(status, sentence);
    }
    const { status, signal } = ending;
    return signal === null ? (status ?? exitStatus.failed) : exitStatus.signalled + constants.signals[signal];
  }

  /** @returns whether the lock was held until now */
  async #release(): Promise<boolean> {
    try {
      await this.#lock.release();
      return true;
    } catch (error) {
      if (error instanceof LockNotHeldError) return false;
      throw error;
    }
  }

  #lost(what: string): Failure {
    const { reason } = this.#lock.signal;
    const because =
      reason instanceof Error ? reason.message : `Lock ${JSON.stringify(this.#plan.key)} was lost`;
    return new Failure(exitStatus.lockLost, `${because}; ${what}`, { cause: reason });
  }
}
