import { describe, expect, test } from "vitest";
import { type SourceFile, sourceFile, sourceFiles } from "../support/source-files.ts";

interface Rule {
  readonly says: string;
  /** Whom it binds; everybody when absent. */
  readonly binds?: (room: string) => boolean;
  /** What breaks it, as found in the file. */
  readonly finds: (file: SourceFile) => string[];
  /** A breach, to prove that it is seen. */
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
];

/** The beginning of a statement at the beginning of a string, or a qualified name anywhere. Crude, and enough. */
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

  test("and what a comment shows is none", () => {
    const file = sourceFile(
      "session.ts",
      '/**\n * console.log("select 1");\n */\n// export default enum A {}\n',
    );
    expect(rules.flatMap(({ finds }) => finds(file))).toEqual([]);
  });
});

function all(text: string, pattern: RegExp): string[] {
  return [...text.matchAll(pattern)].map((match) => match[0]);
}
