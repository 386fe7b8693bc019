/** With `E`, a text means the same whatever `standard_conforming_strings` says; without a dollar, it ends no block. */
export function textLiteral(text: string): string {
  const escaped: Record<string, string> = { "'": "''", "\\": "\\\\", $: "\\x24" };
  return `E'${text.replace(/[\\'$]/g, (character) => escaped[character] ?? character)}'`;
}

/**
 * A statement with its values put in for its parameters. A literal has no type of its own, as a parameter without one, so that the
 * statement means the same.
 *
 * @param values texts and nulls; an array is of what needs no quotes
 */
export function withLiterals(text: string, values: readonly unknown[]): string {
  return text.replace(/\$(\d+)/g, (_, place: string) => {
    const value = values[Number(place) - 1];
    if (value === null || value === undefined) return "null";
    return textLiteral(Array.isArray(value) ? `{${value.join(",")}}` : String(value));
  });
}
