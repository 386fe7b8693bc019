/**
 * Quotes a text as an SQL literal. The `E` prefix makes it independent of `standard_conforming_strings`; `$` is escaped so that the text
 * can't end a dollar-quoted block.
 */
export function textLiteral(text: string): string {
  const escaped: Record<string, string> = { "'": "''", "\\": "\\\\", $: "\\x24" };
  return `E'${text.replace(/[\\'$]/g, (character) => escaped[character] ?? character)}'`;
}

/**
 * Replaces the parameters of a statement by literals. A literal has no type of its own, just like a parameter without one, so the
 * statement means the same.
 *
 * @param values texts and nulls, or arrays of values that need no quotes
 */
export function withLiterals(text: string, values: readonly unknown[]): string {
  return text.replace(/\$(\d+)/g, (_, place: string) => {
    const value = values[Number(place) - 1];
    if (value === null || value === undefined) return "null";
    return textLiteral(Array.isArray(value) ? `{${value.join(",")}}` : String(value));
  });
}
