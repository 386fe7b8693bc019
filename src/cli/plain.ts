/** Characters that would move the cursor or can't be seen. */
const unseen = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** The text as a single line, in which characters that would move the cursor or can't be seen are escaped. */
export function plain(text: string): string {
  return text.replace(unseen, (character) => {
    const code = (character.codePointAt(0) ?? 0).toString(16);
    return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, "0")}`;
  });
}

/** JSON that means the same, in which characters that would move the cursor or can't be seen are written as JSON's own escapes. */
export function plainJson(json: string): string {
  const escaped = (unit: string): string => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return eachLine(json, (line) => line.replace(unseen, (each) => each.split("").map(escaped).join("")));
}

/** A word from outside in quotes, as a sentence shows it: no quote and no line end in it can be taken for the sentence's own. */
export function quoted(word: unknown): string {
  return plain(JSON.stringify(String(word)));
}

/** A number that no text from outside can contain. */
const secret = `${Math.random()}`.slice(2);

/** Marks a control sequence of our own, such as a colour, so that {@link shown} lets it through. */
export function own(sequence: string): string {
  return sequence.replaceAll("\u001b", `\u001b${secret}`);
}

/**
 * Lines as a terminal may get them: everything in them may come from anybody (a server, a key, a file, the environment), so whatever isn't
 * marked by {@link own} is escaped. Only what ends a line stays.
 */
export function shown(text: string): string {
  return text
    .split(`\u001b${secret}`)
    .map((part) => eachLine(part, plain))
    .join("\u001b");
}

function eachLine(text: string, change: (line: string) => string): string {
  return text.split("\n").map(change).join("\n");
}
