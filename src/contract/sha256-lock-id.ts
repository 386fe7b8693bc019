import { createHash } from "node:crypto";
import { assertNamespace, keyText } from "./lock-id.ts";
import type { LockKey } from "./lock-key.ts";

/**
 * A lock id that nobody can aim at: the first eight bytes, big-endian and read as signed, of the SHA-256 of the namespace as four
 * big-endian bytes and then the key's bytes. For the option `lockId` of a locker, if its keys are chosen by those who mustn't be able
 * to make theirs collide with somebody else's. By FNV, the default, that takes no time; here, 2^64 tries.
 *
 * Lockers with it and lockers without it don't exclude each other, and neither does the Go package.
 *
 * @example
 * const locker = new PostgresLocker({ pool, lockId: sha256LockId });
 *
 * @param namespace an int32
 * @throws {EmptyKeyError} @throws {InvalidKeyError} @throws {InvalidConfigError} as `acquire` does
 */
export function sha256LockId(namespace: number, key: LockKey): bigint {
  assertNamespace(namespace);
  keyText(key);
  const head = Buffer.alloc(4);
  head.writeInt32BE(namespace);
  return createHash("sha256").update(head).update(key).digest().readBigInt64BE(0);
}
