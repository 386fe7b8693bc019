import { longestTimer } from "../runtime/clock.ts";
import type { WantedLock } from "./grant.ts";
import { smallestOfClass } from "./server-ttl.ts";

/**
 * The TTL that a server which enforces TTLs is told for a lock, in milliseconds: usually the holder's own. A lock that is to be held for at
 * least `holdAtLeast` milliseconds gets one from its grant on with which no stall can free it earlier, even one that begins at its release.
 *
 * Other locks on its session have shorter TTLs, but of the same class. So it is in a class whose smallest TTL is long enough; that is at
 * most four times as long as the minimum time. Clocks may differ in rate by 0.1 %.
 */
export function ttlInServer({ ttl, holdAtLeast }: Pick<WantedLock, "ttl" | "holdAtLeast">): number {
  if (holdAtLeast === undefined) return ttl;
  const least = holdAtLeast * 1.001 + 1;
  return Math.min(Math.max(ttl, smallestOfClass(Math.ceil(Math.log2(least) / 2))), longestTimer);
}
