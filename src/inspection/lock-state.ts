import type { InspectedSession, LockHolder, LockInspection } from "../contract/lock-inspection.ts";
import type { AbortSignalLike } from "../contract/locker.ts";
import type { Pool } from "../postgres/driver.ts";
import { type LockInfo, locksOf } from "./lock-list.ts";

/** What a locker knows about a lock that it holds. */
export interface OwnLock {
  readonly pid: number | undefined;
  readonly since: Date | undefined;
  readonly fencingToken: bigint | undefined;
  /** When it becomes free, if its holder has released it. */
  readonly keptUntil: Date | undefined;
}

/** A lock to inspect, and what the inspecting locker itself holds of it. */
export interface LockToInspect {
  readonly id: bigint;
  own(): readonly OwnLock[];
}

export type LockState = Pick<LockInspection, "holders" | "waiters">;

/**
 * Returns who holds a lock and who waits for it inside the server.
 *
 * @throws {DatabaseError} @throws {StandbyError} @throws the reason of the signal
 */
export async function lookAtLock(
  pool: Pool,
  lock: LockToInspect,
  signal: AbortSignalLike | undefined,
): Promise<LockState> {
  const seen = await locksOf(pool, lock.id, signal);
  // Read after the answer, so that locks that were granted in the meantime are known.
  const own = lock.own();
  return {
    holders: seen.filter(({ state }) => state === "held").map((info) => holderOf(info, own)),
    waiters: seen
      .filter(({ state }) => state === "waiting")
      .map((info) => ({ ...sessionOf(info), since: info.waitingSince })),
  };
}

function holderOf(info: LockInfo, own: readonly OwnLock[]): LockHolder {
  // A shared lock may have several holders here, for which the server has it once.
  const here = own.filter(({ pid }) => pid !== undefined && pid === info.pid);
  const first = here.reduce<OwnLock | undefined>(earlier, undefined);
  const kept = here.map(({ keptUntil }) => keptUntil);
  return {
    ...sessionOf(info),
    own: first !== undefined,
    since: first?.since,
    keptUntil: kept.includes(undefined) ? undefined : kept.reduce(later, undefined),
    fencingToken: first?.fencingToken,
    preparedTransaction: info.preparedTransaction,
  };
}

/** Of two locks, the one that was granted first. */
function earlier(one: OwnLock | undefined, other: OwnLock): OwnLock {
  return one === undefined || (other.since ?? future) < (one.since ?? future) ? other : one;
}

const future = Number.POSITIVE_INFINITY;

function later(one: Date | undefined, other: Date | undefined): Date | undefined {
  return one === undefined || (other !== undefined && other > one) ? other : one;
}

function sessionOf({ mode, pid, host, applicationName, user, sessionSince }: LockInfo): InspectedSession {
  return { mode, pid, host, applicationName, user, sessionSince };
}
