import { DatabaseError, PoolerDetectedError, StandbyError } from "../contract/errors.ts";

/** What a session says of itself with an answer. */
export interface SaidOfItself {
  readonly pid: number;
  readonly standby: boolean;
  /** `application_name`; absent if it has none of ours yet. */
  readonly name?: string;
}

/**
 * Whether a session is still the one that was opened: on a primary, with the same backend behind it, and nothing discarded. DISCARD
 * ALL, which frees every lock of a session without a word, takes `application_name` away as well.
 *
 * @param expected `pid`: absent if a pooler is trusted to keep it
 * @returns why it can't be trusted with a lock
 */
export function distrust(
  said: SaidOfItself,
  expected: { pid: number | undefined; name?: string },
  doing: string,
): Error | undefined {
  if (said.standby) return new StandbyError();
  if (expected.pid !== undefined && said.pid !== expected.pid) {
    return new PoolerDetectedError({ announced: expected.pid, actual: said.pid });
  }
  if (expected.name === undefined || said.name === expected.name) return undefined;
  return new DatabaseError({ doing, cause: new Error("the session's state was discarded") });
}

/** @throws what {@link distrust} returns */
export function assertTrusted(...asked: Parameters<typeof distrust>): void {
  const broken = distrust(...asked);
  if (broken !== undefined) throw broken;
}

/** Why a release was none: the session did not have the lock that it was to give back. */
export function noLongerHeld(): Error {
  return new Error("the session no longer held it");
}
