/** The text as a single line, in which characters that would move the cursor or can't be seen are escaped. */
export function plain(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu, (character) => {
    const code = (character.codePointAt(0) ?? 0).toString(16);
    return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, "0")}`;
  });
}

/** The same for a text of several lines, such as an error's: a key, a database or an argument in it may come from anybody. */
export function plainLines(text: string): string {
  return text.split("\n").map(plain).join("\n");
}
