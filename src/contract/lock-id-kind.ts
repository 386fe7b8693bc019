import { lockId } from "./lock-id.ts";
import { keyBytes } from "./lock-key.ts";
import { blockOf, semaphoreBlock } from "./permit-block.ts";
import { sha256LockId } from "./sha256-lock-id.ts";

/** The functions that anybody can make lock ids with, by the names that the command line has for them. */
export const lockIdFunctions = { fnv: lockId, sha256: sha256LockId } as const;

/** How a lock id is made. */
export type LockIdKind = keyof typeof lockIdFunctions;

const kinds = Object.keys(lockIdFunctions) as LockIdKind[];

/** A lock that somebody claims to have. */
export interface ClaimedLock {
  /** An int32. */
  readonly namespace: number;
  /** The text that shows the key. */
  readonly key: string;
  readonly id: bigint;
}

/** How the id is made of the key, which proves that the lock is the key's; `undefined`: not in a known way. */
export function kindOfLockId({ namespace, key, id }: ClaimedLock): LockIdKind | undefined {
  const bytes = keyBytes(key);
  return kinds.find((kind) => lockIdFunctions[kind](namespace, bytes) === id);
}

/** How the id of a permit, or of a turnstile, is made of the semaphore's key; `undefined`: not in a known way, or it is neither. */
export function kindOfPermitId({ namespace, key, id }: ClaimedLock): LockIdKind | undefined {
  const bytes = keyBytes(key);
  return kinds.find((kind) => semaphoreBlock(lockIdFunctions[kind](namespace, bytes)) === blockOf(id));
}
