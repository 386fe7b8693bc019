import { type LockIdKind, lockIdFunctions } from "../contract/lock-id-kind.ts";
import { quote } from "../contract/plain-text.ts";
import type { Options, Values } from "./command.ts";
import { usageFailure } from "./failure.ts";

/** The option of a command that computes a lock id. */
export const lockIdOptions = { "lock-ids": { value: "required" } } as const satisfies Options;

/** How the lock id is made, by `--lock-ids`. @throws {Failure} it has an unknown value */
export function lockIdKindOf(values: Values): LockIdKind {
  const given = values["lock-ids"] ?? "fnv";
  if (given === "fnv" || given === "sha256") return given;
  throw usageFailure(`Expected --lock-ids to be fnv or sha256, got ${quote(given)}`);
}

/** The lock id of a key. @throws {EmptyKeyError} @throws {InvalidKeyError} */
export function lockIdOf(of: { key: string; namespace: number; lockIds: LockIdKind }): bigint {
  return lockIdFunctions[of.lockIds](of.namespace, of.key);
}
