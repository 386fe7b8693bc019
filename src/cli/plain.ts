import { plain } from "../contract/plain-text.ts";

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
    .map((part) => part.split("\n").map(plain).join("\n"))
    .join("\u001b");
}
