import { DatabaseError, PoolerDetectedError, StandbyError } from "../contract/errors.ts";

/** What an answer says about its session. */
export interface SaidOfItself {
  readonly pid: number;
  readonly standby: boolean;
  /** The session's `application_name`; absent if the locker hasn't set one yet. */
  readonly name?: string;
}

/**
 * Checks whether a session is still the one that was opened: on a primary, with the same backend, and with its state intact. DISCARD ALL,
 * which silently frees every lock of a session, resets `application_name` too.
 *
 * @param expected `pid`: absent if a pooler is trusted to keep it
 * @returns why the session can't be trusted with a lock; `undefined` if it can
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

/** Throws unless a session can be trusted with a lock. @throws what {@link distrust} returns */
export function assertTrusted(...asked: Parameters<typeof distrust>): void {
  const broken = distrust(...asked);
  if (broken !== undefined) throw broken;
}

/** The cause of a failed release: the session no longer had the lock. */
export function noLongerHeld(): Error {
  return new Error("the session no longer held it");
}
