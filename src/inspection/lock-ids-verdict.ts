import { fnv } from "../contract/lock-id.ts";
import { keyBytes } from "../contract/lock-key.ts";
import { sha256LockId } from "../contract/sha256-lock-id.ts";
import { named } from "../postgres/application-name.ts";
import type { Verdict } from "./diagnosis-verdicts.ts";
import type { SeenLock } from "./sql-inspection.ts";

/** The ways to make a lock id, in words. */
const kinds = { fnv: "`lockId`, the default", sha256: "`sha256LockId`", own: "a `lockId` of their own" };

/**
 * The verdict on whether all lockers make their lock ids in the same way, because only then do they exclude each other. It is judged by
 * sessions that carry one lock, whose name has the key: dedicated and waiting sessions.
 */
export function lockIdsVerdict(locks: readonly SeenLock[]): Verdict {
  const ways = new Set(locks.map(wayOf).filter((way) => way !== undefined));
  const found = [...ways].sort().map((way) => kinds[way]);
  if (found.length < 2) {
    const by = found.length === 0 ? "no session shows a key now" : `by ${found.join("")}`;
    return {
      verdict: "ok",
      found: `lock ids are made in one way, as far as sessions show their keys: ${by}`,
    };
  }
  return {
    verdict: "warn",
    found: `lock ids are made by ${found.join(" and by ")}, which don't exclude each other`,
    advice: "Give all lockers of a key the same `lockId`",
  };
}

function wayOf({ name, id }: SeenLock): keyof typeof kinds | undefined {
  const told = named(name ?? "");
  if (told?.key === undefined || told.mayBeCut) return undefined;
  const bytes = keyBytes(told.key);
  if (fnv(told.namespace, bytes).toString() === id) return "fnv";
  return sha256LockId(told.namespace, bytes).toString() === id ? "sha256" : "own";
}
