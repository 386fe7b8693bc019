import { readdirSync, readFileSync } from "node:fs";
import { posix } from "node:path";
import { parseAst } from "rolldown/parseAst";

const root = new URL("../../src/", import.meta.url);

/** One file of `src/`, as the tests about the source itself see it. */
export interface SourceFile {
  /** The path below `src/`, with `/` on every platform, without `.ts`: `session`, `testing/index`. */
  readonly room: string;
  readonly text: string;
  /** The text with comments blanked out, line by line, because an `@example` may contain what code may not. */
  readonly code: string;
  /** The files that it imports from, by `import`, `export … from`, `import()` or a type import. */
  readonly imports: readonly string[];
}

/** A name that a file declares at its top level. */
export interface Declaration {
  readonly name: string;
  readonly isExported: boolean;
  /** Whether it is an interface, a type or a class. */
  readonly isType: boolean;
}

/** The names that a file declares at its top level. A re-export declares nothing. */
export function declarationsIn({ text }: SourceFile): Declaration[] {
  return parseAst(text, { lang: "ts" }).body.flatMap((statement) => {
    const isExported = statement.type === "ExportNamedDeclaration";
    const declared = isExported ? statement.declaration : statement;
    const isType = /^(TSInterface|TSTypeAlias|Class)Declaration$/.test(declared?.type ?? "");
    return namesIn(declared).map((name) => ({ name, isExported, isType }));
  });
}

function namesIn(declared: unknown): string[] {
  const { id, declarations = [] } = (declared ?? {}) as {
    readonly id?: { readonly name?: string };
    readonly declarations?: readonly { readonly id: { readonly name?: string } }[];
  };
  return [id, ...declarations.map((each) => each.id)].flatMap((each) => each?.name ?? []);
}

/** Every `.ts` file below `src/`, in alphabetical order. */
export function sourceFiles(): SourceFile[] {
  return readdirSync(root, { recursive: true, encoding: "utf8" })
    .map((path) => path.replaceAll("\\", "/"))
    .filter((path) => path.endsWith(".ts"))
    .sort()
    .map((path) => sourceFile(path, readFileSync(new URL(path, root), "utf8")));
}

/** The file that `text` would be as `src/<path>`. */
export function sourceFile(path: string, text: string): SourceFile {
  const room = path.replace(/\.ts$/, "");
  const code = withoutComments(text);
  return { room, text, code, imports: importedRooms(room, code) };
}

function withoutComments(text: string): string {
  // A comment begins at the start of a line or after a space, unlike a glob or an address within a string.
  return text
    .replace(/(?<=^|\s)\/\*[\s\S]*?\*\//gm, (comment) => comment.replace(/[^\n]/g, ""))
    .replace(/(^|\s)\/\/.*$/gm, "$1");
}

function importedRooms(room: string, code: string): string[] {
  const specifiers = [
    ...code.matchAll(/^(?:import|export)\s[\w\s{},*$]*?\bfrom\s*["']([^"']+)["']/gm),
    ...code.matchAll(/^import\s*["']([^"']+)["']/gm),
    ...code.matchAll(/\bimport\s*\(\s*["'`]([^"'`]+)["'`]/g),
  ].map((match) => match[1] ?? "");
  const rooms = specifiers
    .filter((specifier) => specifier.startsWith("."))
    .map((specifier) => posix.join(posix.dirname(room), specifier).replace(/\.[jt]s$/, ""));
  return [...new Set(rooms)].sort();
}
