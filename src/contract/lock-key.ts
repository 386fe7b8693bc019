import { isUtf8 } from "node:buffer";
import { isUint8Array } from "node:util/types";
import { EmptyKeyError, InvalidKeyError } from "./errors.ts";

/**
 * What a caller names a lock by: a string without lone surrogates, or bytes, for keys that another language made and that aren't
 * UTF-8. Bytes that are UTF-8 are the same key as the string that they encode.
 */
export type LockKey = string | Uint8Array;

/** A byte that is no part of a character is shown as the lone surrogate of this number and its own: as in Python (PEP 383). */
const escapeBase = 0xdc00;

/** The bytes of a key, from the text by which it is shown. */
export function keyBytes(text: string): Uint8Array {
  if (text.isWellFormed()) return Buffer.from(text, "utf8");
  return Buffer.concat(
    Array.from(text, (character) =>
      character.isWellFormed()
        ? Buffer.from(character, "utf8")
        : Buffer.of(character.charCodeAt(0) - escapeBase),
    ),
  );
}

/** Bytes by their text, which says the same, if there is one: so one key is one value, in whichever form it came. */
export function plainKey(key: LockKey, text: string): LockKey {
  if (typeof key === "string" || text.isWellFormed()) return text;
  // The caller may go on to change its own.
  return Uint8Array.from(key);
}

/**
 * The text of a key of bytes: see {@link LockKey}.
 *
 * @throws {EmptyKeyError} @throws {InvalidKeyError} they aren't bytes, either
 */
export function textOfBytes(key: unknown): string {
  if (!isUint8Array(key)) throw new InvalidKeyError(key);
  if (key.length === 0) throw new EmptyKeyError();
  return isUtf8(key) ? decoded(key) : escaped(key);
}

function decoded(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("utf8");
}

function escaped(bytes: Uint8Array): string {
  const parts: string[] = [];
  for (let at = 0; at < bytes.length; ) {
    const first = bytes[at] as number;
    const character = bytes.subarray(at, at + lengthAfter(first));
    const isWhole = character.length === lengthAfter(first) && isUtf8(character);
    parts.push(isWhole ? decoded(character) : String.fromCharCode(escapeBase + first));
    at += isWhole ? character.length : 1;
  }
  return parts.join("");
}

/** How many bytes a character has that begins with this one. */
function lengthAfter(first: number): number {
  if (first < 0xc2) return 1;
  if (first < 0xe0) return 2;
  return first < 0xf0 ? 3 : 4;
}
