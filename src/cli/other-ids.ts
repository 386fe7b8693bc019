import { type ClaimedLock, kindOfLockId, kindOfPermitId } from "../contract/lock-id-kind.ts";
import { listLocks } from "../index.ts";
import { colorsFor } from "./colors.ts";
import { keysWithin } from "./known-keys.ts";
import { lockListing } from "./lock-table.ts";
import { wrapped } from "./screen-width.ts";

/**
 * What to say about a key whose lock nobody holds, because a key can have several lock ids: who uses it with another one.
 *
 * @returns a sentence, and the same with a table below; `undefined`: nobody does, as far as sessions tell their keys
 */
export async function usesWithOtherIds(
  pool: Parameters<typeof listLocks>[0],
  { namespace, key, id }: ClaimedLock,
): Promise<{ readonly sentence: string; readonly listing: string } | undefined> {
  const all = await listLocks(pool, { keysWithin });
  const uses = all.flatMap((lock) => {
    if (lock.id === id) return [];
    const by = userOf({ namespace, key, id: lock.id });
    if (by !== undefined) return [{ by, lock: { ...lock, key } }];
    const isClaimed = lock.claimedKey === key && lock.namespace === namespace;
    return isClaimed ? [{ by: "a `lockId` of a locker's own", lock }] : [];
  });
  if (uses.length === 0) return undefined;
  const users = [...new Set(uses.map(({ by }) => by))].join(" and by ");
  const sentence = `The key is in use with another lock id, by ${users}`;
  const table = lockListing(
    uses.map(({ lock }) => lock),
    { empty: "", colors: colorsFor(process.stdout), now: new Date() },
  );
  return { sentence, listing: `${wrapped(sentence, 0)}:\n${table}` };
}

/** Who makes such an id of the key; `undefined`: nobody that is known. */
function userOf(lock: ClaimedLock): string | undefined {
  const kind = kindOfLockId(lock);
  if (kind !== undefined) return `lockers for which --lock-ids ${kind} is right`;
  return kindOfPermitId(lock) === undefined ? undefined : "a semaphore";
}
