/**
 * The text of the string literals of a TypeScript source, each with a `$` in the place of an interpolated part; also of literals within
 * such a part.
 */
export function textsOf(code: string): string[] {
  const texts: string[] = [];
  let at = 0;
  /** Reads up to the end, or to the brace that ends an interpolated part. */
  const read = (isFilledIn: boolean): void => {
    for (let depth = 0; at < code.length; ) {
      const character = code[at];
      at += 1;
      if (character === "'" || character === '"' || character === "`") readText(character);
      else if (character === "/") skipPattern();
      else if (character === "{") depth += 1;
      else if (character === "}") {
        if (isFilledIn && depth === 0) return;
        depth -= 1;
      }
    }
  };
  const skipPattern = (): void => {
    const [pattern] = /^(?:\[(?:[^\]\\]|\\.)*\]|[^/[\\\n]|\\.)+\//.exec(code.slice(at)) ?? [];
    const isPattern = /[(,=:?]\s*$/.test(code.slice(Math.max(at - 40, 0), at - 1));
    if (isPattern && pattern !== undefined) at += pattern.length;
  };
  const readText = (quote: string): void => {
    let text = "";
    for (; at < code.length; at += 1) {
      const character = code[at];
      if (character === quote) break;
      if (character === "\\") {
        at += 1;
        text += code[at] ?? "";
      } else if (quote === "`" && code.startsWith("${", at)) {
        at += 2;
        read(true);
        at -= 1;
        text += "$";
      } else {
        text += character;
      }
    }
    at += 1;
    texts.push(text);
  };
  read(false);
  return texts;
}

/**
 * The names in a statement that are left to `search_path`: operators, types of casts, and the forms of the grammar that look an operator up
 * by its name (https://www.postgresql.org/docs/current/sql-expressions.html#SQL-EXPRESSIONS-OPERATOR-CALLS).
 */
export function unqualifiedIn(sql: string): string[] {
  // Neither the text of a literal nor the `*` of `count(*)` is an operator.
  const bare = sql.replace(/E?'(?:[^']|'')*'/g, "''").replace(/\(\*\)/g, "()");
  return [
    ...bare.replace(/operator\(pg_catalog\.[^\s)]+\)/g, "").matchAll(operators),
    ...bare.matchAll(casts),
    ...bare.matchAll(forms),
  ].map(([what]) => what.trim());
}

const operators = /(?<=[\s)\]\w'"])\s*(?:[<>=!~|&#@^%*/+?]+|(?<=\s)-(?=\s)|->>?)\s*(?=[\s(\w'"$])/g;
const casts = /::(?!pg_catalog\.)\s*"?\w+|\bcast\s*\(/g;
const forms =
  /\bcase\s+(?!when\b|\$)\S+|\b(?:not\s+)?(?:in\s*\((?!pg_catalog)|between\b|i?like\b|similar\s+to\b)|\bnullif\s*\(|\bis\s+(?:not\s+)?distinct\s+from\b|\busing\s*\(/g;
