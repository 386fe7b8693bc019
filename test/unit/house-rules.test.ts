import { readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { declarationsIn, type SourceFile, sourceFile, sourceFiles } from "../support/source-files.ts";
import { textsOf, unqualifiedIn } from "../support/sql-texts.ts";
import { titlesOf } from "../support/test-titles.ts";

interface Rule {
  readonly says: string;
  /** The files that it applies to; all if absent. */
  readonly binds?: (room: string) => boolean;
  /** The breaches found in the file. */
  readonly finds: (file: SourceFile) => string[];
  /** A breach, to prove that the rule sees it. */
  readonly breach: readonly [path: string, text: string];
}

const rules: readonly Rule[] = [
  {
    says: "at most 350 lines a file",
    finds: ({ text }) => {
      const lines = text.trimEnd().split("\n").length;
      return lines > 350 ? [`${lines} lines`] : [];
    },
    breach: ["session.ts", "a;\n".repeat(351)],
  },
  {
    says: "nothing writes to the console but cli/ and testing/",
    binds: (room) => !/^(cli|testing)\//.test(room),
    finds: ({ code }) => all(code, /\bconsole\s*\.\s*\w+/g),
    breach: ["session.ts", 'console.log("x");'],
  },
  {
    says: "the command line writes in the few files that escape what a terminal must not get",
    binds: (room) =>
      room.startsWith("cli/") &&
      !/^cli\/(print|tell-user|redraw|break|start|own-server\/program)$/.test(room),
    finds: ({ code }) => all(code, /\bconsole\s*\.\s*\w+|\bwriteSync\b|\bstd(?:out|err)\s*\.\s*write\b/g),
    breach: ["cli/ls.ts", "process.stdout.write(name);"],
  },
  {
    says: "a sentence shows a text from outside by quote() of plain-text.ts",
    binds: (room) => !/^(testing|cli\/own-server)\//.test(room) && room !== "contract/plain-text",
    finds: ({ code }) => all(code, /\$\{JSON\.stringify\(.*?\)/g),
    breach: ["session.ts", `throw new Error(\`Lock \${JSON.stringify(key)} is held\`);`],
  },
  {
    says: "a file is named after what it exports, not after a drawer",
    finds: ({ room }) => all(room, /\b(utils?|helpers?|common|types|interfaces|lib)\b/g),
    breach: ["lock-utils.ts", ""],
  },
  {
    says: "index.ts lists the public names one by one, a line each",
    binds: (room) => /(^|\/)index$/.test(room),
    finds: ({ code }) =>
      code
        .split("\n")
        .filter((line) => line.trim() !== "")
        .filter((line) => !/^export (type )?\{ (type )?\w+( as \w+)? \} from "[^"]+";$/.test(line)),
    breach: ["index.ts", 'export { a, b } from "./session.ts";'],
  },
  {
    says: "the library asks isError() of caught-error.ts, which knows the errors of other realms",
    binds: (room) => !/^(cli|testing)\//.test(room) && room !== "contract/caught-error",
    finds: ({ code }) => all(code, /\binstanceof (Aggregate)?Error\b/g),
    breach: ["session.ts", "thrown instanceof Error"],
  },
  {
    says: "what waits for a turn of the event loop does so by runtime/clock.ts, where no test fakes it",
    binds: (room) => !/^(cli|testing)\//.test(room) && room !== "runtime/clock",
    finds: ({ code }) =>
      all(code, /\b(?:queueMicrotask|nextTick)\b|\b(?:set|clear)Immediate\b.*"node:timers"/g),
    breach: ["session.ts", "queueMicrotask(() => this.end());"],
  },
  {
    says: "a string union, never an enum",
    finds: ({ code }) => all(code, /^\s*(?:export |declare |const )*enum\s+\w+/gm),
    breach: ["session.ts", "export const enum State {}"],
  },
  {
    says: "no default export",
    finds: ({ code }) => all(code, /^\s*export default\b.*|\bas default\b/gm),
    breach: ["session.ts", "export default class {}"],
  },
  {
    says: "the server is asked to wait in sql-waiting.ts and sql-transaction.ts alone, with a bound",
    binds: (room) => !/^postgres\/sql-(waiting|transaction)$/.test(room),
    finds: ({ code }) => all(code, /\bpg_advisory_(?:xact_)?lock(?:_shared)?\b/g),
    breach: ["sql.ts", 'const a = "select pg_catalog.pg_advisory_xact_lock_shared($1)";'],
  },
  {
    says: "SQL is in files named sql, or sql- and what it is for",
    binds: (room) => !/^(postgres|inspection)\/sql(-\w+)?$/.test(room) && !room.startsWith("testing/"),
    finds: ({ code }) => all(code, sqlText),
    breach: ["session.ts", 'await client.query("select 1");'],
  },
  {
    says: "no operator and no type in our SQL is left to the search_path of a role",
    binds: (room) => /^(postgres|inspection)\/sql(-\w+)?$/.test(room),
    finds: ({ code }) => textsOf(code).filter(isSql).flatMap(unqualifiedIn),
    breach: ["postgres/sql-x.ts", "const a = `select from pg_catalog.pg_locks where pid = 1`;"],
  },
];

/** Whether a text is SQL, and not the name of a module, a statement or an operation. */
function isSql(text: string): boolean {
  return /\s|::|\(/.test(text);
}

/** The beginning of a statement at the beginning of a string, or a qualified name anywhere. Crude, but enough. */
const sqlText = new RegExp(
  [
    /pg_catalog\.\w+/,
    /["'`]\s*(?:select|with|values|execute|prepare|listen|notify|unlisten|declare|fetch)\s+[\w$('"*]+[^"'`.]*["'`(]/,
    /["'`]\s*(?:insert\s+into|delete\s+from|update\s+\w+\s+set|truncate)\s/,
    /["'`]\s*(?:begin|commit|rollback|discard\s+\w+|reset\s+\w+|show\s+\w+)\s*;?\s*["'`]/,
    /["'`]\s*set\s+(?:(?:local|session)\s+)?[\w.]+\s*(?:=|\bto\b)/,
    /["'`]\s*(?:create|alter|drop)\s+(?:or\s+replace\s+)?(?:table|index|sequence|schema|function|role|database)\s/,
  ]
    .map((pattern) => pattern.source)
    .join("|"),
  "gi",
);

describe("the house rules", () => {
  const files = sourceFiles();

  test.each(rules)("$says", ({ binds, finds }) => {
    const found = files
      .filter(({ room }) => binds?.(room) ?? true)
      .flatMap((file) => finds(file).map((what) => `src/${file.room}.ts: ${what}`));
    expect(found).toEqual([]);
  });
});

describe("a breach of the house rules is seen", () => {
  test.each(rules)("$says", ({ binds, finds, breach: [path, text] }) => {
    const file = sourceFile(path, text);
    expect(binds?.(file.room) ?? true).toBe(true);
    expect(finds(file)).not.toEqual([]);
  });

  test("and code in a comment is no breach", () => {
    const file = sourceFile(
      "session.ts",
      '/**\n * console.log("select 1");\n */\n// export default enum A {}\n',
    );
    expect(rules.flatMap(({ finds }) => finds(file))).toEqual([]);
  });
});

describe("a public option", () => {
  const entries = sourceFiles().filter(({ room }) => /^(index|testing\/index)$/.test(room));
  const published = new Set(entries.flatMap(({ text }) => [...text.matchAll(/\w+Options\b/g)].map(String)));

  test("has its default and an example in its doc comment", () => {
    expect(published.size).toBeGreaterThan(12);
    const missing = sourceFiles().flatMap((file) =>
      undocumentedOptions(file, published).map((name) => `src/${file.room}.ts: ${name}`),
    );
    expect(missing).toEqual([]);
  });

  test("a breach is seen", () => {
    const text = `export interface AOptions {
  /** Does a. */
  readonly a?: string;
  /**
   * Does b.
   *
   * @default 1
   * @example
   * b(1);
   */
  readonly b?: string;
  /** @default 2 */
  readonly c?: string;
  readonly d?: string;
  /** @example e(1); */
  readonly e: string;
  readonly f: string;
}

export interface BOptions {
  readonly g?: string;
}
`;
    const names = undocumentedOptions(sourceFile("locker-options.ts", text), new Set(["AOptions"]));
    expect(names).toEqual(["a", "c", "d", "f"]);
  });
});

/** Fields of these interfaces whose doc comment lacks an example or, unless the field is required, a default. */
function undocumentedOptions({ text }: SourceFile, interfaces: ReadonlySet<string>): string[] {
  const found = [...text.matchAll(/^export interface (\w+)\b[^{]*\{\n(.*?)^\}/gms)];
  return found.flatMap(([, holder = "", body = ""]) => {
    if (!interfaces.has(holder)) return [];
    const fields = [...body.matchAll(/(^ {2}\/\*\*(?:(?!\*\/).)*\*\/\n)?^ {2}(?:readonly )?(\w+)(\??):/gms)];
    return fields
      .filter(
        ([, comment = "", , optional]) =>
          !comment.includes("@example") || (optional === "?" && !comment.includes("@default")),
      )
      .map(([, , name = ""]) => name);
  });
}

describe("one thing has one name", () => {
  test("a name that src/ exports is declared once, a type's name nowhere else", () => {
    expect(declaredTwice(sourceFiles())).toEqual([]);
  });

  test.each([
    ["exported twice", "export const a = 1;", "export function a() {}"],
    ["a type beside one that is exported", "export interface A {}", "type A = string;"],
    ["a class beside a type that is exported", "class A {}", "export type A = string;"],
  ])("a breach is seen: %s", (_, one, other) => {
    const files = [sourceFile("one.ts", one), sourceFile("other.ts", other)];
    expect(declaredTwice(files)).toHaveLength(1);
  });

  test("and a name that two files don't export, or export again, is no breach", () => {
    const files = [
      sourceFile("one.ts", "type State = 1;\nexport const a = 1;"),
      sourceFile(
        "other.ts",
        'type State = 2;\nexport { a } from "./one.ts";\nconst b = () => { const a = 1; };',
      ),
    ];
    expect(declaredTwice(files)).toEqual([]);
  });
});

/** Names that two files export; and names of types that one file exports, and another uses for something of its own. */
function declaredTwice(files: readonly SourceFile[]): { name: string; rooms: string[] }[] {
  const all = files.flatMap((file) => declarationsIn(file).map((each) => ({ ...each, room: file.room })));
  return [...new Set(all.filter(({ isExported }) => isExported).map(({ name }) => name))].flatMap((name) => {
    const those = all.filter((each) => each.name === name && (each.isExported || each.isType));
    const rooms = [...new Set(those.map(({ room }) => room))];
    return rooms.length > 1 ? [{ name, rooms }] : [];
  });
}

describe("the house rules of tests", () => {
  const files = readdirSync(new URL("..", import.meta.url), { recursive: true, encoding: "utf8" })
    .map((path) => path.replaceAll("\\", "/"))
    .filter((path) => path.endsWith(".ts") && !path.includes("node_modules/"))
    .map((path) => ({ path, text: readFileSync(new URL(`../${path}`, import.meta.url), "utf8") }));
  const breaches = (inText: (text: string) => string[]): string[] =>
    files.flatMap(({ path, text }) => inText(text).map((what) => `test/${path}: ${what}`));

  const tooLong = (text: string): string[] => {
    const lines = text.trimEnd().split("\n").length;
    return lines > 500 ? [`${lines} lines`] : [];
  };
  const longTitles = (text: string): string[] =>
    titlesOf(text)
      .filter(({ title }) => title.length > 80)
      .map(({ title, line }) => `line ${line}: ${title.length} characters: ${title}`);

  test("at most 500 lines a file", () => {
    expect(breaches(tooLong)).toEqual([]);
    expect(tooLong("a;\n".repeat(501))).toHaveLength(1);
  });

  test("at most 80 characters a title", () => {
    expect(breaches(longTitles)).toEqual([]);
    const title = "a".repeat(81);
    const breach = `describe.each(a)("b", () => { test.skipIf(b).each(c)("${title}", d); test(\`${title}\`, e); });`;
    expect(longTitles(breach)).toHaveLength(2);
    expect(longTitles(`describe("${title}", () => {});`)).toHaveLength(1);
  });
});

describe("what a statement leaves to search_path is seen", () => {
  test.each([
    ["select a = b", "="],
    ["select a<>b", "<>"],
    ["select (a) >> 32", ">>"],
    ["select a | b", "|"],
    ["select a & $1", "&"],
    ["select a - b", "-"],
    ["select a - 1 * 2", "*"],
    ["select a->>'b'", "->>"],
    ["select a || 'b'", "||"],
    ["select a = any (b)", "="],
    ["select a::text", "::text"],
    ["select '{}'::int8[]", "::int8"],
    ['select a::"char"', '::"char'],
    ["select cast (a as text)", "cast ("],
    ["select case a when 1 then 2 end", "case a"],
    ["select a in (1, 2)", "in ("],
    ["select a not in (1, 2)", "not in ("],
    ["select a between 1 and 2", "between"],
    ["select nullif(a, b)", "nullif("],
    ["select a is not distinct from b", "is not distinct from"],
    ["select a like 'b%'", "like"],
    ["select from a join b using (c)", "using ("],
  ])("%s", (sql, what) => {
    expect(unqualifiedIn(sql)).toContain(what);
  });

  test("and a statement that leaves nothing to it passes", () => {
    const sql = `select coalesce(pg_catalog.json_agg(((a::pg_catalog.int8 operator(pg_catalog.<<) 32))::pg_catalog.text), '[a = b]'),
                        case when a operator(pg_catalog.=) any ($1::pg_catalog.int8[]) then -1 end, pg_catalog.count(*)
                   from rows from (pg_catalog.unnest($3::pg_catalog."char"[])) with ordinality as operation(id, letter)`;
    expect(unqualifiedIn(sql)).toEqual([]);
  });

  test("also in an interpolated part", () => {
    const filledIn = (text: string): string => `$\{${text}}`;
    const code = `const a = \`select ${filledIn(`b ? "c = d" : \`${filledIn("e")} | f\``)}::text\`;`;
    expect(textsOf(code)).toEqual(["c = d", "$ | f", "select $::text"]);
  });
});

function all(text: string, pattern: RegExp): string[] {
  return [...text.matchAll(pattern)].map((match) => match[0]);
}
