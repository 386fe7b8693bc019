import { isUtf8 } from "node:buffer";
import { isUint8Array } from "node:util/types";
import { EmptyKeyError, InvalidKeyError } from "./errors.ts";

/**
 * The name of a lock: a string without lone surrogates, or bytes, for keys that were made in another language and aren't UTF-8.
 * Bytes that are valid UTF-8 are the same key as the string they encode.
 */
export type LockKey = string | Uint8Array;

/** A byte that isn't part of a UTF-8 character is shown as the lone surrogate U+DC00 plus the byte, as in Python (PEP 383). */
const escapeBase = 0xdc00;

/** The bytes of a key, from the text that shows it. */
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

/**
 * The key that is shown as a text, for texts from other processes. `undefined` if no key is: the text is empty, or has lone surrogates
 * and is none that {@link textOfBytes} writes.
 */
export function keyShownAs(text: string): LockKey | undefined {
  if (text === "") return undefined;
  if (text.isWellFormed()) return text;
  const bytes = keyBytes(text);
  return textOfBytes(bytes) === text ? bytes : undefined;
}

/** A key in its canonical form: bytes that are valid UTF-8 become the string they encode, so that one key is always one value. */
export function plainKey(key: LockKey, text: string): LockKey {
  if (typeof key === "string" || text.isWellFormed()) return text;
  // A copy, because the caller may change its array later.
  return Uint8Array.from(key);
}

/**
 * The text that shows a key given as bytes: see {@link LockKey}.
 *
 * @throws {EmptyKeyError} @throws {InvalidKeyError} `key` is not a `Uint8Array`
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

/** The length in bytes of the UTF-8 character that starts with this byte. */
function lengthAfter(first: number): number {
  if (first < 0xc2) return 1;
  if (first < 0xe0) return 2;
  return first < 0xf0 ? 3 : 4;
}
