// What a `catch` gets is anything: this is how it becomes an error, a sentence or a code.

/** What was thrown, as an error: itself if it is one. */
export function toError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(sentenceOf(thrown), { cause: thrown });
}

/**
 * What was thrown, in words: not everything can be made into a string. The driver reports a refused connection to a host of several
 * addresses as an AggregateError without a message.
 */
export function sentenceOf(thrown: unknown): string {
  if (thrown instanceof AggregateError && thrown.message === "")
    return thrown.errors.map(sentenceOf).join("; ");
  try {
    return thrown instanceof Error ? String(thrown.message) : String(thrown);
  } catch {
    return "something that has no text";
  }
}

/** The code of an error: the system's (`"ENOENT"`), the server's SQLSTATE or this library's own. `undefined` if it has none, or a number. */
export function codeOf(thrown: unknown): string | undefined {
  if (!(thrown instanceof Error) || !("code" in thrown)) return undefined;
  return typeof thrown.code === "string" ? thrown.code : undefined;
}

/** Whether an error has one of these codes. */
export function hasCode(thrown: unknown, ...codes: readonly string[]): boolean {
  return codes.includes(codeOf(thrown) ?? "");
}
