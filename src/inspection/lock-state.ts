import type { InspectedSession, LockHolder, LockInspection } from "../contract/lock-inspection.ts";
import type { AbortSignalLike } from "../contract/locker.ts";
import type { Pool } from "../postgres/driver.ts";
import { type LockInfo, locksOf } from "./lock-list.ts";

/** What a locker knows of a lock of its own. */
export interface OwnLock {
  readonly pid: number | undefined;
  readonly since: Date | undefined;
  readonly fencingToken: bigint | undefined;
}

/** A lock that is looked at, and what the one who looks has of it. */
export interface SoughtLock {
  readonly id: bigint;
  own(): readonly OwnLock[];
}

export type LockState = Pick<LockInspection, "holders" | "waiters">;

/**
 * Who has a lock, and who waits for it in the server.
 *
 * @throws {DatabaseError} @throws {StandbyError} @throws the reason of the signal
 */
export async function lookAtLock(
  pool: Pool,
  lock: SoughtLock,
  signal: AbortSignalLike | undefined,
): Promise<LockState> {
  const seen = await locksOf(pool, lock.id, signal);
  // What was granted meanwhile is known by now.
  const own = lock.own();
  return {
    holders: seen.filter(({ state }) => state === "held").map((info) => holderOf(info, own)),
    waiters: seen
      .filter(({ state }) => state === "waiting")
      .map((info) => ({ ...sessionOf(info), since: info.waitingSince })),
  };
}

function holderOf(info: LockInfo, own: readonly OwnLock[]): LockHolder {
  // One that is shared may have several holders here, for which the server has it once: they are in the order of their grants.
  const first = own.find(({ pid }) => pid !== undefined && pid === info.pid);
  return {
    ...sessionOf(info),
    own: first !== undefined,
    since: first?.since,
    fencingToken: first?.fencingToken,
    preparedTransaction: info.preparedTransaction,
  };
}

function sessionOf({ mode, pid, host, applicationName, user, sessionSince }: LockInfo): InspectedSession {
  return { mode, pid, host, applicationName, user, sessionSince };
}
