/** How a value that was not expected is shown in a sentence: `"5"` (string), `-1` (number). */
export function show(value: unknown): string {
  switch (typeof value) {
    case "string":
      // A connection string in the wrong place has a password all the same.
      return value.length > 60 || value.includes("://")
        ? conceal(value)
        : `\`${JSON.stringify(value)}\` (string)`;
    case "number":
    case "bigint":
    case "boolean":
      return `\`${value}\` (${typeof value})`;
    case "function":
      return "a function";
    case "object":
      if (value === null) return "`null`";
      return Array.isArray(value) ? "an array" : "an object";
    default:
      return `\`${String(value)}\``;
  }
}

/** For a text that may be a password, or hold one. */
export function conceal(text: string): string {
  return `a string of ${text.length} characters`;
}

/** A key in a sentence, cut if it is long. */
export function quote(key: string): string {
  return JSON.stringify(key.length > 100 ? `${key.slice(0, 99)}…` : key);
}

/**
 * What was thrown, in words: not everything can be made into a string. The driver reports a refused connection to a host of several
 * addresses as an AggregateError without a message.
 */
export function sentenceOf(cause: unknown): string {
  if (cause instanceof AggregateError && cause.message === "") return cause.errors.map(sentenceOf).join("; ");
  try {
    return cause instanceof Error ? String(cause.message) : String(cause);
  } catch {
    return "something that has no text";
  }
}
