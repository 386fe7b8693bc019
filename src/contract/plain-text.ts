// Texts from outside, such as a key or a server's message, for terminals and sentences.

/** Characters that would move the cursor or can't be seen. */
const unseen = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** How many characters of a text from outside a sentence shows. */
const mostShown = 100;

/** The text as a single line, in which characters that would move the cursor or can't be seen are escaped. */
export function plain(text: string): string {
  return text.replace(unseen, (character) => {
    const code = (character.codePointAt(0) ?? 0).toString(16);
    return code.length > 4 ? `\\u{${code}}` : `\\u${code.padStart(4, "0")}`;
  });
}

/** JSON that means the same, in which characters that would move the cursor or can't be seen have JSON's own escapes. The line ends between its values stay. */
export function plainJson(json: string): string {
  const escaped = (unit: string): string => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`;
  return json.replace(unseen, (each) => (each === "\n" ? each : each.split("").map(escaped).join("")));
}

/** A text from outside for a sentence. Of a long one, only its beginning and its length: `abc… (100000 characters)`. */
export function shortened(text: string): string {
  return text.length > mostShown ? `${plain(beginning(text))}${lengthOf(text)}` : plain(text);
}

/** A text from outside as {@link shortened} shows it, in quotes: no quote and no line end in it can be taken for the sentence's own. */
export function quote(text: unknown): string {
  const given = String(text);
  if (given.length <= mostShown) return plain(JSON.stringify(given));
  return `${plain(JSON.stringify(beginning(given)))}${lengthOf(given)}`;
}

function beginning(text: string): string {
  // Not half of a character.
  return `${text.slice(0, mostShown - 1).replace(/[\ud800-\udbff]$/, "")}…`;
}

function lengthOf(text: string): string {
  return ` (${text.length} characters)`;
}
