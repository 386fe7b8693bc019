import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { type SourceFile, sourceFile, sourceFiles } from "../support/source-files.ts";

/**
 * Who may import whom: one rank for each folder, lowest first. A file imports from its own folder and from those on lower lines; type-only
 * imports count. A name that ends in `/` is a folder with everything below it, any other name is a single file.
 */
const ranks: ReadonlyArray<readonly string[]> = [
  ["contract/"],
  ["runtime/", "orm/"],
  ["postgres/"],
  ["sessions/", "inspection/"],
  ["waiting/"],
  ["holding/"],
  ["election/", "semaphore/"],
  ["locker-options", "namespaced-locker"],
  ["option-rules"],
  ["go-config", "locker-core"],
  ["postgres-locker", "memory-locker"],
  ["index"],
  ["testing/postgres/", "testing/contract/"],
  ["testing/index"],
  ["cli/own-server/", "cli/run/", "cli/"],
];

describe("the import map", () => {
  const files = sourceFiles();

  test("finds the files of src/", () => {
    expect(files.length).toBeGreaterThan(0);
  });

  test.each(files.map((file) => [`src/${file.room}.ts`, file] as const))("holds for %s", (_, file) => {
    expect(complaints(file)).toEqual([]);
  });

  test("has no line for a folder that is gone", () => {
    const gone = ranks.flat().filter((name) => !files.some(({ room }) => covers(name, room)));
    expect(gone).toEqual([]);
  });
});

test("the README of src/ names every file and every folder", () => {
  const text = readFileSync("src/README.md", "utf8");
  const entries = readdirSync("src", { withFileTypes: true });
  const names = entries.map((entry) => (entry.isDirectory() ? `${entry.name}/` : entry.name));
  expect(names.filter((name) => name !== "README.md" && !text.includes(`\`${name}\``))).toEqual([]);
});

describe("the README of a folder", () => {
  const files = sourceFiles();
  const readmes = readdirSync("src", { recursive: true, encoding: "utf8" })
    .map((path) => path.replaceAll("\\", "/"))
    .filter((path) => path.endsWith("/README.md"))
    .map((path) => path.replace("README.md", ""));

  test("is there for each folder of the map", () => {
    const folders = ranks.flat().filter((name) => name.endsWith("/") && !name.startsWith("testing/"));
    expect(folders.filter((folder) => !readmes.includes(folder))).toEqual([]);
    expect(readmes).toContain("testing/");
  });

  test.each(readmes)("says what is imported: src/%s", (folder) => {
    const homeOf = (room: string): string => {
      const homes = readmes.filter((readme) => room.startsWith(readme)).sort((a, b) => b.length - a.length);
      return homes[0] ?? `${room}.ts`;
    };
    const imported = files
      .filter(({ room }) => homeOf(room) === folder)
      .flatMap(({ imports }) => imports.map(homeOf))
      .filter((home) => home !== folder);
    const [, said = ""] =
      /^\*\*Imports\*\* (.+)\.$/m.exec(readFileSync(`src/${folder}README.md`, "utf8")) ?? [];
    const names = [...said.matchAll(/`([^`]+)`/g)].map(([, name = ""]) => name);
    expect(names.sort()).toEqual([...new Set(imported)].sort());
  });

  test.each(readmes)("names files that exist: src/%s", (folder) => {
    const text = readFileSync(`src/${folder}README.md`, "utf8");
    const named = [...text.matchAll(/`([\w./-]+\.ts)`/g)].map(([, name = ""]) => name);
    expect(named.length).toBeGreaterThan(0);
    const ofMap = new Set(files.map(({ room }) => `${room}.ts`));
    expect(named.filter((name) => !ofMap.has(`${folder}${name}`) && !ofMap.has(name))).toEqual([]);
  });
});

describe("a breach of the import map is seen", () => {
  test.each([
    ["an import from a higher folder", "contract/a", `import { a } from "../runtime/clock.ts";`],
    [
      "an import from a folder of the same rank",
      "sessions/a",
      `import { a } from "../inspection/lock-list.ts";`,
    ],
    ["a type-only import", "contract/a", `import type { A } from "../runtime/clock.ts";`],
    [
      "an import over several lines",
      "contract/a",
      `import {\n  a,\n  type B,\n} from "../runtime/clock.js";`,
    ],
    ["a re-export", "contract/a", `export * from "../runtime/clock.ts";`],
    ["an import for its effect", "contract/a", `import "../runtime/clock.ts";`],
    ["a dynamic import", "contract/a", `const a = await import("../runtime/clock.ts");`],
    ["the type of a module", "contract/a", `type A = typeof import("../runtime/clock.ts");`],
    ["the public surface", "testing/index", `import { a } from "../index.ts";`],
    ["a way past the public surface", "cli/main", `import { a } from "../runtime/clock.ts";`],
    ["more than the contract", "orm/a", `import { a } from "../runtime/clock.ts";`],
    ["a file that is in no folder of the map", "unheard-of", ""],
  ])("%s", (_, room, text) => {
    expect(complaints(sourceFile(`${room}.ts`, text))).toHaveLength(1);
  });

  test("and an import in a comment is no breach", () => {
    const text = `/**\n * @example\n * import { a } from "../runtime/clock.ts";\n */\n// import "../runtime/clock.ts";\n`;
    expect(complaints(sourceFile("contract/a.ts", text))).toEqual([]);
  });
});

/** The files from which index.ts exports something: cli/ may import straight from these, to load no more than a command needs. */
const exported = new Set(sourceFiles().find(({ room }) => room === "index")?.imports);

/** What is wrong with the imports of a file, in one sentence each. */
function complaints({ room, imports }: SourceFile): string[] {
  const own = folderOf(room);
  if (own === undefined) {
    return [`src/${room}.ts is in no folder of the import map: see test/unit/import-map.test.ts`];
  }
  return imports.flatMap((imported) => {
    if (
      room.startsWith("cli/") &&
      !/^((cli|contract)\/.*|index|testing\/index)$/.test(imported) &&
      !exported.has(imported)
    ) {
      return [`src/${room}.ts imports ${imported}: cli/ is to do with what the two index.ts export`];
    }
    if (room.startsWith("orm/") && !/^(orm|contract)\//.test(imported)) {
      return [`src/${room}.ts imports ${imported}: orm/ is to do with contract/`];
    }
    if (imported === "index" && !room.startsWith("cli/")) {
      return [`src/${room}.ts imports index.ts: only cli/ may`];
    }
    const folder = folderOf(imported);
    const allowed = folder !== undefined && (folder.name === own.name || folder.rank < own.rank);
    return allowed || (room.startsWith("cli/") && imported.startsWith("cli/"))
      ? []
      : [`src/${room}.ts imports ${imported}, which is not below its own folder`];
  });
}

function folderOf(room: string): { name: string; rank: number } | undefined {
  for (const [rank, names] of ranks.entries()) {
    const name = names.find((each) => covers(each, room));
    if (name !== undefined) return { name, rank };
  }
  return undefined;
}

function covers(name: string, room: string): boolean {
  return name.endsWith("/") ? room.startsWith(name) : room === name;
}
