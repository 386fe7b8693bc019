import { existsSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { exitStatus } from "../../src/cli/exit-status.ts";

const text = readFileSync("docs/cli.md", "utf8");

/** The tables whose lines are tests, by the heading above and the one below. */
const tables = [
  ["faults", "### How the lock is kept", "### What it does not do"],
  ["comparison", "## Beside flock", undefined],
] as const;

describe.each(tables)("the table of docs/cli.md: %s", (_, heading, next) => {
  const part = text.slice(text.indexOf(heading), next === undefined ? undefined : text.indexOf(next));
  const lines = [...part.matchAll(/^\| (\d+) \|/gm)].map(([, number]) => number);
  // Names of tests, "…", "…" and "…" in `file`, and perhaps more of them from another file.
  const proofs = [...part.matchAll(/^(\d+)\. ((?:(?!\d+\. ).+\n)+)/gm)].map(([, number, text = ""]) => {
    const groups = [...text.matchAll(/((?:"[^"]+"(?:,| and)?\s+)+)in\s+`([\w.-]+)`/g)];
    return { number, named: groups.flatMap(([, names = "", file = ""]) => titlesIn(names, file)) };
  });

  test("names a test for each line", () => {
    expect(lines.length).toBeGreaterThan(10);
    expect(proofs.map(({ number }) => number)).toEqual(lines);
    expect(proofs.filter(({ named }) => named.length === 0)).toEqual([]);
  });

  test.each(proofs.flatMap(({ named }) => named))("names a test that exists: %s", (name, file) => {
    const path = `test/integration/${file}`;
    expect(existsSync(path)).toBe(true);
    // A string before a function, also of a test whose table of cases has strings of its own; or the first string of such a case.
    const titled = /(?<!describe[^"`\n]*)["`]([^"`\n]+)["`],\s*(?:async )?\(|\["([^"\n]+)", [`"]/g;
    const titles = [...readFileSync(path, "utf8").matchAll(titled)];
    expect(titles.map(([, title, ofCase]) => title ?? ofCase)).toContainEqual(expect.stringContaining(name));
  });
});

describe("docs/cli.md", () => {
  test("has every exit status", () => {
    const table = text.slice(text.indexOf("## Exit statuses"), text.indexOf("## Beside flock"));
    const statuses = [...table.matchAll(/^\| (\d+)( \+ N)? \|/gm)].map(([, status]) => Number(status));
    expect(statuses).toEqual(Object.values(exitStatus));
  });
});

function titlesIn(names: string, file: string): (readonly [name: string, file: string])[] {
  return [...names.matchAll(/"([^"]+)"/g)].map(([, name = ""]) => [name.replaceAll(/\s+/g, " "), file]);
}
