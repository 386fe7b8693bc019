/** Shows an unexpected value in an error message: `"5"` (string), `-1` (number). */
export function show(value: unknown): string {
  switch (typeof value) {
    case "string":
      // A connection string that was passed in the wrong place may still hold a password.
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

/** What an error message shows in place of a text that may be or contain a password. */
export function conceal(text: string): string {
  return `a string of ${text.length} characters`;
}

/** Quotes a key for an error message; a long one is cut. */
export function quote(key: string): string {
  return JSON.stringify(key.length > 100 ? `${key.slice(0, 99)}…` : key);
}
