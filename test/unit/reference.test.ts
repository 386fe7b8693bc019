import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { sourceFiles } from "../support/source-files.ts";

// docs/reference/ has a row for each option and each error in the source, and no others.

const files = sourceFiles();
const code = files.map((file) => file.code).join("\n");
const page = (name: string): string => readFileSync(`docs/reference/${name}.md`, "utf8");

/** The first cells of a section's table, without their backticks and quotes. */
function rowsOf(text: string, heading: string): string[] {
  const [, section = ""] = text.split(new RegExp(`^## ${heading}$`, "m"));
  const [, rows = ""] = (section.split(/^## /m)[0] ?? "").split(/^\|---.*$/m);
  return [...rows.matchAll(/^\| `"?([\w-]+)"?` \|/gm)].map(([, name = ""]) => name);
}

/** The names of an interface's members, and of those that it extends. */
function membersOf(name: string, source = code): string[] {
  const [, rest] = source.split(new RegExp(`interface ${name}\\b`));
  if (rest === undefined) throw new Error(`Expected an interface \`${name}\` in src/`);
  const head = rest.slice(0, rest.indexOf("{"));
  // An interface without members of its own has them in its heading.
  const body = rest.startsWith("}", head.length + 1) ? "" : rest.slice(head.length, rest.indexOf("\n}"));
  const own = [...body.matchAll(/^ {2}(?:readonly )?(\w+)\??:/gm)].map(([, member = ""]) => member);
  const picked = [...head.matchAll(/"(\w+)"/g)].map(([, member = ""]) => member);
  const [, base] = /extends\s+(?!Pick<)(\w+)/.exec(head) ?? [];
  return [...(base === undefined ? [] : membersOf(base, source)), ...picked, ...own];
}

/** The strings of a union type. */
function unionOf(name: string): string[] {
  const [, union] = new RegExp(`export type ${name} =([^;]*);`).exec(code) ?? [];
  return [...(union ?? "").matchAll(/"([\w-]+)"/g)].map(([, one = ""]) => one);
}

const sections = [...page("options").matchAll(/^## `(\w+)`$/gm)].map(([, name = ""]) => name);
const exported = files
  .filter(({ room }) => /^(?:testing\/|orm\/)?index$/.test(room))
  .flatMap(({ code: names }) => [...names.matchAll(/export (?:type )?\{ (\w+) \}/g)])
  .map(([, name = ""]) => name);

describe("docs/reference/options.md", () => {
  test("has a section for every interface of options that is exported", () => {
    const options = exported.filter((name) => /^[A-Z]\w*(?:Options|Config)$/.test(name));
    expect(options.length).toBeGreaterThan(10);
    expect([...sections].sort()).toEqual([...options].sort());
  });

  test.each(sections)("has a row for each option of %s", (name) => {
    expect(
      rowsOf(page("options"), `\`${name}\``).sort(),
      "docs/reference/options.md lacks a row, or has one too many",
    ).toEqual([...new Set(membersOf(name))].sort());
  });

  test("an option without a row would be seen", () => {
    const source = code.replace("  readonly maxWaitingSessions?:", "  readonly another?: string;\n$&");
    expect(membersOf("PostgresLockerOptions", source)).toContain("another");
    expect(membersOf("PostgresLockerOptions")).toEqual(expect.arrayContaining(["pool", "namespace"]));
  });
});

describe("docs/reference/errors.md", () => {
  const errors = page("errors");
  const classes = [...code.matchAll(/class (\w+Error) extends LockerError \{([\s\S]*?)^\}/gm)].map(
    ([, name = "", body = ""]) => ({
      name,
      code: /static readonly code = "(\w+)"/.exec(body)?.[1],
      fields: [...body.matchAll(/^ {2}readonly (\w+):/gm)].map(([, field = ""]) => field),
    }),
  );

  test("has a row for each class, with its code", () => {
    expect(classes.length).toBeGreaterThan(10);
    const rows = [...errors.matchAll(/^\| `(\w+)` \| `([A-Z_]+)` \|/gm)].map(([, name, code]) => ({
      name,
      code,
    }));
    const byName = (one: { name: string | undefined }, other: { name: string | undefined }) =>
      String(one.name).localeCompare(String(other.name));
    expect(rows.sort(byName)).toEqual(classes.map(({ name, code }) => ({ name, code })).sort(byName));
    expect(exported).toEqual(expect.arrayContaining(classes.map(({ name }) => name)));
  });

  test.each([
    ["LockNotAcquiredError", "NotAcquiredReason"],
    ["LockNotHeldError", "NotHeldReason"],
  ])("has a row for each reason of %s", (name, type) => {
    expect(unionOf(type).length).toBeGreaterThan(2);
    expect(rowsOf(errors, `Reasons of \`${name}\``)).toEqual(unionOf(type));
  });

  test("has a row for each field, with the classes that have it", () => {
    const rows = [...errors.matchAll(/^\| `(\w+)` \| ((?:`\w+Error`(?:, )?)+) \|/gm)].flatMap(
      ([, field, names = ""]) => [...names.matchAll(/`(\w+)`/g)].map(([, name]) => `${name}.${field}`),
    );
    const fields = classes.flatMap(({ name, fields }) => fields.map((field) => `${name}.${field}`));
    expect(rows.sort()).toEqual(fields.sort());
  });
});
