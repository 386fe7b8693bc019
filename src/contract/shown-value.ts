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

/** What an error says in place of a text that may be a password, or contain one. */
export function conceal(text: string): string {
  return `a string of ${text.length} characters`;
}

/** A key in a sentence, cut if it is long. */
export function quote(key: string): string {
  return JSON.stringify(key.length > 100 ? `${key.slice(0, 99)}…` : key);
}
