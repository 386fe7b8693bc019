import { lockId } from "./lock-id.ts";
import { keyBytes } from "./lock-key.ts";
import { blockOf, semaphoreBlock } from "./permit-block.ts";
import { sha256LockId } from "./sha256-lock-id.ts";

/** The functions with which this library computes lock ids, by their names on the command line. */
export const lockIdFunctions = { fnv: lockId, sha256: sha256LockId } as const;

/** The function by which a lock id is computed from a key. */
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

/** Which function computes the id of a claimed lock from its key, which proves the claim; `undefined` if none of them does. */
export function kindOfLockId({ namespace, key, id }: ClaimedLock): LockIdKind | undefined {
  const bytes = keyBytes(key);
  return kinds.find((kind) => lockIdFunctions[kind](namespace, bytes) === id);
}

/** Which function computes the id from a semaphore's key, as that of a permit or of the turnstile; `undefined` if none does. */
export function kindOfPermitId({ namespace, key, id }: ClaimedLock): LockIdKind | undefined {
  const bytes = keyBytes(key);
  return kinds.find((kind) => semaphoreBlock(lockIdFunctions[kind](namespace, bytes)) === blockOf(id));
}
