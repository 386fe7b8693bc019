import { sentenceOf } from "./caught-error.ts";
import { EmptyKeyError, InvalidConfigError, InvalidKeyError, LockerError } from "./errors.ts";
import { type LockKey, plainKey, textOfBytes } from "./lock-key.ts";

const utf8 = new TextEncoder();
/** A reusable buffer for what is hashed, a namespace and a key, large enough for usual keys. */
const usual = roomFor(256);

/**
 * The signed 64-bit number by which PostgreSQL knows a lock: FNV-1a 64 over the namespace as four big-endian bytes, then
 * the key's bytes, which are UTF-8 if it is a string. The Go package `distributedlock/postgres` computes the same number, so a Go
 * service with the same namespace and key contends with this one.
 *
 * Keys are used as they are: no Unicode normalisation, no trimming. Two keys may share an id: see the reason `"id-collision"` of
 * `LockNotAcquiredError`. Anyone who can choose a key can choose one whose id equals that of another key; {@link sha256LockId}
 * prevents that.
 *
 * @param namespace an int32
 * @throws {EmptyKeyError} @throws {InvalidKeyError} @throws {InvalidConfigError} as `acquire` does
 */
export function lockId(namespace: number, key: LockKey): bigint {
  assertNamespace(namespace);
  const text = keyText(key);
  return fnv(namespace, typeof key === "string" ? text : key);
}

/**
 * The text that shows a key in `lock.key` and in errors. Bytes that aren't UTF-8 become lone surrogates, which no string key may
 * contain, so no two keys have the same text.
 *
 * @throws {EmptyKeyError} @throws {InvalidKeyError}
 */
export function keyText(key: unknown): string {
  if (typeof key === "string") {
    if (!key.isWellFormed()) throw new InvalidKeyError(key);
    if (key === "") throw new EmptyKeyError();
    return key;
  }
  return textOfBytes(key);
}

/** The id of a key by FNV-1a, without checking the arguments. */
export function fnv(namespace: number, key: LockKey): bigint {
  // UTF-8 takes at most three bytes for each code unit of a string.
  const room = 3 * key.length <= usual.key.length ? usual : roomFor(3 * key.length);
  room.view.setInt32(0, namespace);
  let length = 4;
  if (typeof key === "string") {
    length += utf8.encodeInto(key, room.key).written;
  } else {
    room.key.set(key);
    length += key.length;
  }
  const { bytes } = room;
  // The 64-bit state is kept in two unsigned halves: BigInt arithmetic would block for 150 ms on a key of one megabyte.
  let high = 0xcbf29ce4;
  let low = 0x84222325;
  for (let at = 0; at < length; at += 1) {
    low = (low ^ (bytes[at] as number)) >>> 0;
    // Multiply by the prime 2^40 + 0x1b3; every product stays below 2^53.
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

/** Checks that a namespace is an int32. @throws {InvalidConfigError} */
export function assertNamespace(namespace: unknown): asserts namespace is number {
  if (isInt32(namespace)) return;
  throw new InvalidConfigError({ field: "namespace", got: namespace, wants: int32Range });
}

/**
 * Computes the id of a lock: the option `lockId` of `PostgresLocker`. A key given as bytes that are valid UTF-8 is passed as the string
 * they encode, so a `Uint8Array` argument is never valid UTF-8.
 */
export type LockIdFunction = (namespace: number, key: LockKey) => bigint;

/**
 * Calls the user's `lockId` function and checks the id that it returns.
 *
 * @param text the key as it is shown
 * @throws {InvalidConfigError} the id is not a signed 64-bit bigint, or the function threw
 */
export function ownLockId(make: LockIdFunction, namespace: number, key: LockKey, text: string): bigint {
  let id: unknown;
  try {
    id = make(namespace, plainKey(key, text));
  } catch (error) {
    if (error instanceof LockerError) throw error;
    const wants = `a function that returns an id (it threw: ${sentenceOf(error)})`;
    throw new InvalidConfigError({ field: "lockId", got: make, wants, cause: error });
  }
  if (typeof id === "bigint" && BigInt.asIntN(64, id) === id) return id;
  const wants = "a function that returns a bigint from -2^63 to 2^63-1";
  throw new InvalidConfigError({ field: "lockId", got: id, wants });
}
