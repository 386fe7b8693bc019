import { EmptyKeyError, InvalidConfigError, InvalidKeyError } from "./errors.ts";

const utf8 = new TextEncoder();
/** What is hashed: a namespace, and then room for a key. This one is for the keys that are usual. */
const usual = roomFor(256);

/**
 * The signed 64-bit number that PostgreSQL knows a lock by: FNV-1a 64 over the namespace as four big-endian bytes, then
 * the key's UTF-8 bytes. The Go package `distributedlock/postgres` makes the same, so that a Go service with the same
 * namespace and key contends with this one.
 *
 * Keys are taken as they are: no Unicode normalisation, no trimming. Two keys may share an id; see the
 * `"id-collision"` reason of `LockNotAcquiredError`.
 *
 * @param namespace an int32
 * @throws {EmptyKeyError} @throws {InvalidKeyError} @throws {InvalidConfigError} as `acquire` does
 */
export function lockId(namespace: number, key: string): bigint {
  if (!isInt32(namespace))
    throw new InvalidConfigError({ field: "namespace", got: namespace, wants: int32Range });
  assertKey(key);
  // UTF-8 takes three bytes at most for what is one unit of a string.
  const room = 3 * key.length <= usual.key.length ? usual : roomFor(3 * key.length);
  room.view.setInt32(0, namespace);
  const length = 4 + utf8.encodeInto(key, room.key).written;
  const { bytes } = room;
  // A 64-bit state in two unsigned halves: BigInt arithmetic per byte would block for 150 ms on a key of a megabyte.
  let high = 0xcbf29ce4;
  let low = 0x84222325;
  for (let at = 0; at < length; at += 1) {
    low = (low ^ (bytes[at] as number)) >>> 0;
    // times the prime 2^40 + 0x1b3; every product stays below 2^53
    const product = low * 0x1b3;
    high = (high * 0x1b3 + low * 0x100 + Math.floor(product / 0x1_0000_0000)) % 0x1_0000_0000;
    low = product >>> 0;
  }
  return BigInt.asIntN(64, (BigInt(high) << 32n) | BigInt(low));
}

function roomFor(keyLength: number) {
  const bytes = new Uint8Array(4 + keyLength);
  return { bytes, view: new DataView(bytes.buffer), key: bytes.subarray(4) };
}

export const int32Range = "a whole number from -2147483648 to 2147483647";

export function isInt32(value: unknown): value is number {
  return typeof value === "number" && Number.isInteger(value) && value >= -(2 ** 31) && value < 2 ** 31;
}

/** @throws {EmptyKeyError} @throws {InvalidKeyError} */
export function assertKey(key: unknown): asserts key is string {
  if (typeof key !== "string" || !key.isWellFormed()) throw new InvalidKeyError(key);
  if (key === "") throw new EmptyKeyError();
}
