// The lock ids of a semaphore are a block of 2^19, so that one look at the server's list of locks tells all about it:
//
//     first + 0                     the turnstile: whoever holds it is the next to get a permit
//     first + 1 + n(n − 1)/2 + s    place s, from 0 to n − 1, of a semaphore of n permits
//
// `first` is the lock id of the key, followed by a NUL and `pg-locker:semaphore`, with its lowest 19 bits cleared. So the places of
// different numbers of permits are different locks, and each place says of how many permits it is one.

/** Of a block. 1000 permits take 500,501 ids. */
export const blockBits = 19;
const low = (1n << BigInt(blockBits)) - 1n;

/** Where the turnstile is, counted from the first id of the block. */
export const turnstile = 0;

/** What is hashed for the block of a key. Nobody has such a key by accident. */
export function blockKey(key: string): string {
  return `${key}\u0000pg-locker:semaphore`;
}

/** The first id of the block in which an id lies. */
export function blockOf(id: bigint): bigint {
  return BigInt.asIntN(64, id & ~low);
}

/** A place, from 0 on, of a semaphore of so many permits, counted from the first id of the block. */
export function placeOf(permits: number, place: number): number {
  return 1 + (permits * (permits - 1)) / 2 + place;
}

/** Of how many permits a place is one; the reverse of {@link placeOf}. */
export function permitsOf(at: number): number {
  return Math.floor((1 + Math.sqrt(8 * (at - 1) + 1)) / 2);
}

export function idAt(block: bigint, at: number): bigint {
  return block + BigInt(at);
}
