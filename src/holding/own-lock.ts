import type { OwnLock } from "../inspection/lock-state.ts";
import type { RegisteredLock } from "./lock-registry.ts";

/** A lock of the registry, as a look at the server's list of locks compares it. */
export function ownLock({ pid, grantedAt, fencingToken }: RegisteredLock): OwnLock {
  return { pid, since: grantedAt === undefined ? undefined : new Date(grantedAt), fencingToken };
}
