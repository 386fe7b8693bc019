import type { Lock, PostgresLocker } from "../../index.ts";
import type { Values } from "../command.ts";
import type { Database } from "../database.ts";
import { exitStatus } from "../exit-status.ts";
import { refusalOf } from "../failure.ts";
import { startedRunner } from "./early-runner.ts";
import { refused } from "./holder.ts";
import { LockKeeper } from "./lock-keeper.ts";
import { LockSession } from "./lock-session.ts";
import { atMost, Interrupted, PassedSignals, unlessAborted } from "./passed-signals.ts";
import type { RunPlan } from "./plan.ts";
import { tellWhoHolds } from "./waiting-line.ts";

/** Milliseconds for everything to be tidied up: the end of this process does it as well. */
const tidyTime = 2_000;

/**
 * Takes the lock, has the runner run the command, keeps the lock for as long as that takes, and gives it back.
 *
 * @returns the status of the command
 * @throws {Failure} the command could not be run, the lock was lost, or the runner was killed
 * @throws what a locker throws; then the command was not run
 */
export async function runUnderLock(plan: RunPlan, values: Values): Promise<number> {
  const signals = new PassedSignals();
  const { interrupted } = signals;
  /** What is to be tidied up, the first of it last. */
  const tidyings: (() => PromiseLike<void>)[] = [];
  let database: Database | undefined;
  try {
    // It starts while the library is loaded and the lock is taken.
    const { runner, inherited } = await startedRunner();
    tidyings.unshift(() => runner[Symbol.asyncDispose]());
    const [{ PostgresLocker }, { connect }] = await unlessAborted(
      Promise.all([import("../../postgres-locker.ts"), import("../database.ts")]),
      interrupted,
    );
    const opened = await unlessAborted(connect(values, { max: 1, signal: interrupted }), interrupted);
    database = opened;
    tidyings.unshift(() => opened[Symbol.asyncDispose]());
    const { pool } = opened;
    const session = new LockSession(pool);
    const locker = new PostgresLocker({
      pool,
      namespace: plan.namespace,
      sessions: "dedicated",
      ttlEnforcement: "server",
      pooler: plan.how.pooler,
      ...(plan.recoveryGrace !== undefined && { recoveryGrace: plan.recoveryGrace }),
    });
    tidyings.unshift(() => locker[Symbol.asyncDispose]());
    const lock = await takeLock(locker, plan, { values, interrupted });
    return await new LockKeeper(plan, { lock, session, runner, inherited }).keep(signals);
  } catch (error) {
    if (error instanceof Interrupted) return error.status;
    const refusal = refusalOf(error);
    if (database === undefined || refusal === undefined || refusal === "unknown") throw error;
    // If it is as well, there is nothing to tell.
    if (plan.conflictStatus === exitStatus.ok) return exitStatus.ok;
    throw await refused(error, { plan, pool: database.pool, signals });
  } finally {
    await atMost(tidyTime, signals, tidyUp(tidyings));
  }
}

/** Never rejects: what it can't do, the end of this process does. */
async function tidyUp(tidyings: readonly (() => PromiseLike<void>)[]): Promise<void> {
  for (const tidying of tidyings) {
    try {
      await tidying();
    } catch {
      // A link that is dead, a server that has gone.
    }
  }
}

async function takeLock(
  locker: PostgresLocker,
  plan: RunPlan,
  { values, interrupted }: { values: Values; interrupted: AbortSignal },
): Promise<Lock> {
  using _telling = tellWhoHolds(plan, values);
  return await unlessAborted(acquire(locker, plan, interrupted), interrupted);
}

function acquire(locker: PostgresLocker, plan: RunPlan, signal: AbortSignal): Promise<Lock> {
  const { key, mode, ttl, wait, how } = plan;
  return locker.acquire(key, { mode, ttl, wait, signal, fencing: how.fencing && mode === "exclusive" });
}
