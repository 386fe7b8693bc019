import { createHash } from "node:crypto";
import { assertNamespace, keyText } from "./lock-id.ts";
import type { LockKey } from "./lock-key.ts";

/**
 * Computes a lock id that nobody can make collide: the first eight bytes, big-endian and read as signed, of the SHA-256 of the namespace
 * as four big-endian bytes and then the key's bytes. For the option `lockId` of a locker, if users choose the keys and mustn't be able
 * to pick one that collides with another's. That takes no time with FNV, the default, and 2^64 tries here.
 *
 * Lockers that use it don't exclude lockers that don't, nor the Go package.
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
