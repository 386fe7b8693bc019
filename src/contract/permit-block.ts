import { createHash } from "node:crypto";

// The lock ids of a semaphore form a block of 2^19 ids, so that one query of the server's list of locks shows its whole state:
//
//     first + 0                     the turnstile: whoever holds it is the next to get a permit
//     first + 1 + n(n − 1)/2 + s    place s, from 0 to n − 1, of a semaphore of n permits
//
// `first` is made of the key's lock id by a hash, so a block lies anywhere among all ids, even if a `lockId` function counts 1, 2, 3.
// Semaphores with different numbers of permits have different places, so a held place shows its holder's number of permits.

/** A block has 2 to the power of this many ids. 1000 permits need 500,501. */
export const blockBits = 19;
const low = (1n << BigInt(blockBits)) - 1n;

/** The offset of the turnstile from the first id of the block. */
export const turnstile = 0;

/**
 * The first id of the block of a semaphore, from the lock id of its key: the first eight bytes, big-endian and read as signed, of the
 * SHA-256 of the lock id as eight big-endian bytes and then the text `pg-locker:semaphore`, with the lowest 19 bits cleared.
 */
export function semaphoreBlock(id: bigint): bigint {
  const head = Buffer.alloc(8);
  head.writeBigInt64BE(id);
  return blockOf(createHash("sha256").update(head).update("pg-locker:semaphore").digest().readBigInt64BE(0));
}

/** The first id of the block that contains an id. */
export function blockOf(id: bigint): bigint {
  return BigInt.asIntN(64, id & ~low);
}

/** The offset, from the first id of the block, of a place of a semaphore with `permits` permits. Places count from 0. */
export function placeOf(permits: number, place: number): number {
  return 1 + (permits * (permits - 1)) / 2 + place;
}

/** The number of permits of the semaphore to which a place belongs: the inverse of {@link placeOf}. */
export function permitsOf(at: number): number {
  return Math.floor((1 + Math.sqrt(8 * (at - 1) + 1)) / 2);
}

export function idAt(block: bigint, at: number): bigint {
  return block + BigInt(at);
}
