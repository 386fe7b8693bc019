import { DatabaseError, LockNotAcquiredError, namedLockError } from "../contract/errors.ts";
import type { Pool } from "../postgres/driver.ts";
import { type NotReserved, reserveSession } from "../postgres/reservation.ts";
import { Session } from "../postgres/session.ts";
import type { LockRequest, Refusal } from "./grant.ts";

/**
 * Reserves a session for a request for a lock, if the request has not been abandoned by the time there is one.
 *
 * @throws {LockNotAcquiredError} `"connection-timeout"` @throws {DatabaseError} as {@link reserveSession} does
 * @throws {LockTableFullError} the server's lock table is full, which also keeps clients from connecting
 */
export async function reserveFor(
  request: LockRequest,
  { pool, wait }: { pool: Pool; wait: number },
): Promise<Session | Refusal> {
  let session: Session | NotReserved;
  try {
    session = await reserveSession(pool, wait);
  } catch (error) {
    throw namedLockError(aboutTaking(error, request.key));
  }
  if (!(session instanceof Session)) {
    const { refused, waited } = session;
    if (refused === "pool-saturated") return { refused, waited };
    throw new LockNotAcquiredError({ key: request.key, reason: refused, waited });
  }
  if (!request.abandoned) return session;
  session.return();
  return { refused: "abandoned" };
}

/** Turns a failure to get a session into a failure to take the lock of `key`. */
function aboutTaking(error: unknown, key: string): unknown {
  if (!(error instanceof DatabaseError)) return error;
  return new DatabaseError({ doing: "Taking the lock", key, cause: error.cause });
}
