import { type ClaimedLock, kindOfLockId, kindOfPermitId, type LockIdKind } from "../contract/lock-id-kind.ts";
import { named } from "../postgres/application-name.ts";
import type { Verdict } from "./diagnosis-verdicts.ts";
import type { ToldLocks } from "./key-questions.ts";
import type { SeenLock } from "./sql-inspection.ts";

/** The ways to make a lock id, in words. */
const ways: Record<LockIdKind | "own", string> = {
  fnv: "`lockId`, the default",
  sha256: "`sha256LockId`",
  own: "a `lockId` of their own",
};

/**
 * The verdict on whether all lockers make their lock ids in the same way, because only then do they exclude each other. It is judged by
 * the locks whose key and id are known: those of sessions with one lock, whose name has the key, and those that lockers tell.
 */
export function lockIdsVerdict(seen: readonly SeenLock[], told: ToldLocks): Verdict {
  const claims = [...seen.flatMap((lock) => claimOf(lock) ?? []), ...told.locks];
  const found = [...new Set(claims.map(wayOf))].sort().map((way) => ways[way]);
  if (found.length > 1) {
    return {
      verdict: "warn",
      found: `lock ids are made by ${found.join(" and by ")}, which don't exclude each other`,
      advice: "Give all lockers of a key the same `lockId`",
    };
  }
  const { size } = told.silent;
  const sessions =
    size === 1 ? "1 session with many locks doesn't" : `${size} sessions with many locks don't`;
  if (found.length === 0 && size > 0)
    return { verdict: "ok", found: `how lock ids are made is not known: ${sessions} tell the keys` };
  const by = found.length === 0 ? "no lock shows its key now" : `by ${found.join("")}`;
  const but = size === 0 ? "" : `; ${sessions} tell theirs`;
  return {
    verdict: "ok",
    found: `lock ids are made in one way, as far as locks show their keys: ${by}${but}`,
  };
}

/** The lock as the name of its session shows it; `undefined` if the name has no key, or perhaps not all of it. */
function claimOf({ name, id }: SeenLock): ClaimedLock | undefined {
  const { namespace, key, mayBeCut } = named(name ?? "") ?? {};
  if (namespace === undefined || key === undefined || mayBeCut) return undefined;
  return { namespace, key, id: BigInt(id) };
}

function wayOf(lock: ClaimedLock): LockIdKind | "own" {
  return kindOfLockId(lock) ?? kindOfPermitId(lock) ?? "own";
}
