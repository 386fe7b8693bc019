import { quote, shortened } from "./plain-text.ts";

/** Shows an unexpected value in an error message: `"5"` (string), `-1` (number). */
export function show(value: unknown): string {
  switch (typeof value) {
    case "string":
      // A connection string that was passed in the wrong place may still hold a password.
      return value.length > 60 || value.includes("://") ? conceal(value) : `\`${quote(value)}\` (string)`;
    case "number":
    case "bigint":
    case "boolean":
      return `\`${shortened(String(value))}\` (${typeof value})`;
    case "function":
      return "a function";
    case "object":
      if (value === null) return "`null`";
      return Array.isArray(value) ? "an array" : `an object${ofClass(value)}`;
    default:
      return `\`${shortened(String(value))}\``;
  }
}

/** The class of an object, if it has one with a name that tells something: libraries shorten theirs to a letter or two. */
function ofClass(value: object): string {
  try {
    const { name } = value.constructor;
    return name !== "Object" && /^[A-Z]\w{2,39}$/.test(name) ? ` (${name})` : "";
  } catch {
    return "";
  }
}

/** What an error message shows in place of a text that may be or contain a password. */
export function conceal(text: string): string {
  return `a string of ${text.length} ${text.length === 1 ? "character" : "characters"}`;
}
