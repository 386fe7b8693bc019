/** Makes `JSON.stringify` write each `bigint` in an object as a string, as it does for a `Lock`. Returns the object. */
export function jsonSafe<T extends object>(value: T): T {
  return Object.defineProperty(value, "toJSON", { value: asJson });
}

function asJson(this: object): unknown {
  // A copy has no `toJSON`.
  const text = JSON.stringify({ ...this }, (_, each) => (typeof each === "bigint" ? each.toString() : each));
  return JSON.parse(text);
}
