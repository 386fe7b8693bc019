import type { OwnLock } from "../inspection/lock-state.ts";
import type { RegisteredLock } from "./lock-registry.ts";

/** The facts about a registered lock that are compared with the server's list of locks. */
export function ownLock({ pid, grantedAt, fencingToken }: RegisteredLock): OwnLock {
  return { pid, since: grantedAt === undefined ? undefined : new Date(grantedAt.wall), fencingToken };
}
