import { isNativeError } from "node:util/types";

// A `catch` may get any value. These functions make an error, a sentence or a code of it.

/** Whether a value is an error, even one of another realm: under jest, an error of Node.js is no instance of the tests' class `Error`. */
export function isError(value: unknown): value is Error {
  return value instanceof Error || isNativeError(value);
}

/** Whether a value is an error that consists of others, even one of another realm. */
export function isAggregateError(value: unknown): value is AggregateError {
  return isError(value) && value.name === "AggregateError" && "errors" in value;
}

/** The thrown value itself if it is an error, otherwise an error whose `cause` it is. */
export function toError(thrown: unknown): Error {
  return isError(thrown) ? thrown : new Error(sentenceOf(thrown), { cause: thrown });
}

/**
 * Describes a thrown value in words, even one that can't be made into a string. If a host has several addresses and all of them refuse
 * the connection, the driver throws an AggregateError without a message: the messages of its errors are used.
 */
export function sentenceOf(thrown: unknown): string {
  if (isAggregateError(thrown) && thrown.message === "") return thrown.errors.map(sentenceOf).join("; ");
  try {
    return isError(thrown) ? String(thrown.message) : String(thrown);
  } catch {
    return "something that has no text";
  }
}

/** The code of an error: the system's (`"ENOENT"`), the server's SQLSTATE or this library's own. `undefined` if it has none or it is a number. */
export function codeOf(thrown: unknown): string | undefined {
  if (!isError(thrown) || !("code" in thrown)) return undefined;
  return typeof thrown.code === "string" ? thrown.code : undefined;
}

/** Whether a thrown value is an error with one of these codes. */
export function hasCode(thrown: unknown, ...codes: readonly string[]): boolean {
  return codes.includes(codeOf(thrown) ?? "");
}
