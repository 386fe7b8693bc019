import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));

/** A block of code of a page. */
export interface Snippet {
  /** The words after the three backticks, if any: `ts`, or `ts title="cron.ts"`. */
  readonly language: string;
  readonly title: string | undefined;
  /** The line of the page on which the block begins. */
  readonly line: number;
  readonly code: string;
}

/** The blocks of code in a page, which is given by its path from the root of the repository. */
export async function snippetsOf(page: string): Promise<Snippet[]> {
  const text = await readFile(join(root, page), "utf8");
  return [...text.matchAll(/^```(\w*)(?: title="([^"]+)")?\n(.*?)^```$/gms)].map((match) => ({
    language: match[1] ?? "",
    title: match[2],
    line: text.slice(0, match.index).split("\n").length,
    code: match[3] ?? "",
  }));
}
