import type { Pool } from "pg";
import { lockIdFunctions } from "../../contract/lock-id-kind.ts";
import type { Lock, PostgresLocker } from "../../index.ts";
import type { Values } from "../command.ts";
import type { Database } from "../database.ts";
import { exitStatus } from "../exit-status.ts";
import { refusalOf } from "../failure.ts";
import { passedSignals, startedRunner } from "./early-runner.ts";
import { refused } from "./holder.ts";
import { LockSession } from "./lock-session.ts";
import { LockedRun } from "./locked-run.ts";
import { atMost, Interrupted, unlessAborted } from "./passed-signals.ts";
import type { RunPlan } from "./plan.ts";
import { tellWhoHolds } from "./waiting-line.ts";

/** Milliseconds for the clean-up. After that, the end of this process does the rest. */
const tidyTime = 2_000;

/**
 * Takes the lock, has the runner run the command, keeps the lock until the command has ended, and releases it.
 *
 * @returns the status of the command
 * @throws {Failure} the command could not be run, the lock was lost, or the runner was killed
 * @throws whatever the locker throws; then the command was not run
 */
export async function runUnderLock(plan: RunPlan, values: Values): Promise<number> {
  const signals = passedSignals();
  const { interrupted } = signals;
  /** The steps of the clean-up, the latest first. */
  const tidyings: (() => PromiseLike<void>)[] = [];
  let database: Database | undefined;
  try {
    // The runner gets ready while the library is loaded and the lock is taken.
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
      lockId: lockIdFunctions[plan.lockIds],
      sessions: "dedicated",
      ttlEnforcement: "server",
      pooler: plan.how.pooler,
      ...(plan.recoveryGrace !== undefined && { recoveryGrace: plan.recoveryGrace }),
    });
    tidyings.unshift(() => locker[Symbol.asyncDispose]());
    const lock = await takeLock(locker, plan, { pool, interrupted });
    return await new LockedRun(plan, { lock, session, runner, inherited }).keep(signals);
  } catch (error) {
    if (error instanceof Interrupted) return error.status;
    const refusal = refusalOf(error);
    if (database === undefined || refusal === undefined || refusal === "unknown") throw error;
    // With the status 0, nothing is reported either.
    if (plan.conflictStatus === exitStatus.ok) return exitStatus.ok;
    throw await refused(error, { plan, pool: database.pool, signals });
  } finally {
    await atMost(tidyTime, signals, tidyUp(tidyings));
  }
}

/** Never rejects: if a step fails, the end of this process does the same. */
async function tidyUp(tidyings: readonly (() => PromiseLike<void>)[]): Promise<void> {
  for (const tidying of tidyings) {
    try {
      await tidying();
    } catch {
      // The link is dead, or the server has gone.
    }
  }
}

async function takeLock(
  locker: PostgresLocker,
  plan: RunPlan,
  { pool, interrupted }: { pool: Pool; interrupted: AbortSignal },
): Promise<Lock> {
  using _telling = tellWhoHolds(plan, pool);
  return await unlessAborted(acquire(locker, plan, interrupted), interrupted);
}

function acquire(locker: PostgresLocker, plan: RunPlan, signal: AbortSignal): Promise<Lock> {
  const { key, mode, ttl, wait, how } = plan;
  return locker.acquire(key, { mode, ttl, wait, signal, fencing: how.fencing && mode === "exclusive" });
}
