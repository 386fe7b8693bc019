import { DatabaseError, LockNotAcquiredError, namedLockError } from "../contract/errors.ts";
import type { Pool } from "../postgres/driver.ts";
import { type Abandoned, type NotReserved, reserveSession } from "../postgres/reservation.ts";
import { Session } from "../postgres/session.ts";
import type { StopSignal } from "../runtime/stop-signal.ts";
import { cancelled, type LockRequest, type Refusal } from "./grant.ts";

/**
 * Reserves a session for a request for a lock. When there is one, the request may have been abandoned: whoever sends something checks
 * that in the same step.
 *
 * @param from `left`: aborts when the request is abandoned. Default: what {@link cancelled} returns for it
 * @throws {LockNotAcquiredError} `"connection-timeout"` @throws {DatabaseError} as {@link reserveSession} does
 * @throws {LockTableFullError} the server's lock table is full, which also keeps clients from connecting
 */
export async function reserveFor(
  request: LockRequest,
  from: { pool: Pool; wait: number; left?: StopSignal | undefined },
): Promise<Session | Refusal> {
  if (request.abandoned) return { refused: "abandoned" };
  const { pool, wait, left = cancelled(request) } = from;
  let session: Session | NotReserved | Abandoned;
  try {
    session = await reserveSession(pool, { wait, left });
  } catch (error) {
    throw namedLockError(aboutTaking(error, request.wanted.key));
  }
  if (!(session instanceof Session)) {
    if (session.refused !== "connection-timeout") return session;
    throw new LockNotAcquiredError({
      key: request.wanted.key,
      reason: session.refused,
      waited: session.waited,
    });
  }
  return session;
}

/** Turns a failure to get a session into a failure to take the lock of `key`. */
function aboutTaking(error: unknown, key: string): unknown {
  if (!(error instanceof DatabaseError)) return error;
  return new DatabaseError({ doing: "Taking the lock", key, cause: error.cause });
}
