import { describe, expect, test } from "vitest";
import { type SourceFile, sourceFile, sourceFiles } from "../support/source-files.ts";

/**
 * Who may import whom, lowest level first. A file imports from the levels above its line only, type-only
 * imports included, and never from its own. To move a file, move its name to another line.
 */
const levels: readonly string[][] = [
  ["errors", "locker", "driver", "clock", "abandon", "duration", "application-name"],
  [
    "lock-id",
    "lease",
    "smallest-ttl",
    "exchange",
    "options",
    "with-lock",
    "circuit-breaker",
    "grant",
    "holding-state",
    "telemetry",
    "turn-taking",
    "waiters",
  ],
  ["config", "sql", "sql-diagnosis", "sql-inspection"],
  ["sql-shared", "session", "session-lease", "diagnosis-verdicts"],
  ["reservation", "held-lock", "ping", "locks-kept", "listener", "arbiter"],
  ["dedicated-sessions", "held-locks", "lock-group", "transaction", "operations", "diagnosis", "inspection"],
  ["shared-session"],
  ["shared-sessions"],
  ["base-locker"],
  ["postgres-locker", "memory-locker"],
  ["index"],
  [
    "testing/postgres-account",
    "testing/postgres-versions",
    "testing/postgres-use",
    "testing/process-watchdog",
    "testing/contract-given",
  ],
  [
    "testing/postgres-backup",
    "testing/postgres-binaries",
    "testing/contract-cases",
    "testing/contract-cases-waiting",
  ],
  ["testing/postgres-installation", "testing/postgres-server", "testing/contract"],
  ["testing/index"],
  ["cli/system-error"],
  [
    "cli/exit-status",
    "cli/command",
    "cli/colors",
    "cli/lock-table",
    "cli/deadline",
    "cli/process-group",
    "cli/own-server-lock-files",
    "cli/own-server-visit",
  ],
  ["cli/failure", "cli/control-channel", "cli/lock-session", "cli/passed-signals", "cli/redraw"],
  [
    "cli/arguments",
    "cli/print",
    "cli/namespace",
    "cli/duration",
    "cli/supervised-command",
    "cli/runner-process",
    "cli/own-server-folder",
    "cli/own-server-idle",
  ],
  ["cli/run-plan", "cli/runner", "cli/own-server-claim", "cli/own-server-data"],
  ["cli/own-server-postgres"],
  ["cli/own-server-keeper", "cli/own-server"],
  ["cli/own-server-program", "cli/database"],
  ["cli/keeper"],
  ["cli/run", "cli/ls", "cli/who", "cli/break", "cli/id", "cli/doctor", "cli/server", "cli/demo"],
  ["cli/main"],
];

describe("the import map", () => {
  const files = sourceFiles();

  test("finds the files of src/", () => {
    expect(files.length).toBeGreaterThan(0);
  });

  test.each(files.map((file) => [`src/${file.room}.ts`, file] as const))("holds for %s", (_, file) => {
    expect(complaints(file)).toEqual([]);
  });

  test("names no file twice", () => {
    const names = levels.flat();
    expect(names.filter((name, at) => names.indexOf(name) !== at)).toEqual([]);
  });

  test("names no file that is gone", () => {
    const rooms = new Set(files.map((file) => file.room));
    expect(levels.flat().filter((name) => !rooms.has(name))).toEqual([]);
  });
});

describe("a breach of the import map is seen", () => {
  const lower = levels[0]?.[0] ?? "";
  const sibling = levels[0]?.[1] ?? "";

  test.each([
    ["an import from its own level", lower, `import { a } from "./${sibling}.ts";`],
    ["a type-only import", lower, `import type { A } from "./${sibling}.ts";`],
    ["an import over several lines", lower, `import {\n  a,\n  type B,\n} from "./${sibling}.js";`],
    ["a re-export", lower, `export * from "./${sibling}.ts";`],
    ["an import for its effect", lower, `import "./${sibling}.ts";`],
    ["a dynamic import", lower, `const a = await import("./${sibling}.ts");`],
    ["the type of a module", lower, `type A = typeof import("./${sibling}.ts");`],
    ["the public surface", "testing/index", `import { a } from "../index.ts";`],
    ["a way past the public surface", "cli/main", `import { a } from "../${lower}.ts";`],
    ["a file that is on no level", "unheard-of", ""],
  ])("%s", (_, room, text) => {
    expect(complaints(sourceFile(`${room}.ts`, text))).toHaveLength(1);
  });

  test("and what a comment shows is none", () => {
    const text = `/**\n * @example\n * import { a } from "./${sibling}.ts";\n */\n// import "./${sibling}.ts";\n`;
    expect(complaints(sourceFile(`${lower}.ts`, text))).toEqual([]);
  });
});

/** What is wrong with the imports of a file, a sentence each. */
function complaints(file: SourceFile): string[] {
  const own = levelOf(file.room);
  if (own === undefined) {
    return [
      `src/${file.room}.ts is not in the import map: add it to a level in test/unit/import-map.test.ts`,
    ];
  }
  return file.imports.flatMap((imported) => {
    if (file.room.startsWith("cli/") && !/^(cli\/.*|index|testing\/index)$/.test(imported)) {
      return [`src/${file.room}.ts imports ${imported}: cli/ is to do with what the two index.ts export`];
    }
    if (imported === "index" && !file.room.startsWith("cli/")) {
      return [`src/${file.room}.ts imports index.ts: only cli/ may`];
    }
    const level = levelOf(imported);
    if (level === undefined || level >= own) {
      return [`src/${file.room}.ts imports ${imported}, which is not on a level below its own`];
    }
    return [];
  });
}

function levelOf(room: string): number | undefined {
  const at = levels.findIndex((level) => level.includes(room));
  return at === -1 ? undefined : at;
}
