import { type Session, statementDeadline } from "../postgres/session.ts";
import { type ProveAnswer, prove } from "../postgres/sql.ts";
import type { Instant } from "../runtime/clock.ts";
import { sessionTimeout } from "./server-ttl.ts";
import { assertTrusted } from "./trust.ts";

/**
 * Proves that a session with one lock is still the one on which the lock was granted. If `lapses`, also sets its time-out for a new TTL.
 *
 * @returns when the proof was sent
 * @throws {DatabaseError} @throws {StandbyError} @throws {PoolerDetectedError} then the session can't be trusted any more
 */
export async function proveSession(
  session: Session,
  known: { readonly pid: number; readonly name: string; readonly lapses: boolean },
  { ttl, deadline }: { readonly ttl: number; readonly deadline: number },
): Promise<Instant> {
  const { pid, name, lapses } = known;
  const doing = "Refreshing the lock";
  const values = [pid.toString(), lapses ? sessionTimeout(ttl) : "0"];
  const within = Math.min(statementDeadline, deadline);
  const { said, sentAt } = await session.run<ProveAnswer>(doing, prove, values, within);
  assertTrusted(said, { pid, name }, doing);
  return sentAt;
}
