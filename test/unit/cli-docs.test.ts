import { existsSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { exitStatus } from "../../src/cli/exit-status.ts";

const text = readFileSync("docs/cli.md", "utf8");

describe("docs/cli.md", () => {
  const comparison = text.slice(text.indexOf("## Beside flock"));
  const lines = [...comparison.matchAll(/^\| (\d+) \|/gm)].map(([, number]) => number);
  const proofs = [...comparison.matchAll(/^(\d+)\. ((?:"[^"]+"(?: and)?\s+)+)in `([\w.-]+)`$/gm)];

  test("names a test for each line of the comparison", () => {
    expect(lines.length).toBeGreaterThan(10);
    expect(proofs.map(([, number]) => number)).toEqual(lines);
  });

  const named = proofs.flatMap(([, , names = "", file = ""]) =>
    [...names.matchAll(/"([^"]+)"/g)].map(([, name = ""]) => [name.replaceAll(/\s+/g, " "), file] as const),
  );

  test.each(named)("names a test that exists: %s", (name, file) => {
    const path = `test/integration/${file}`;
    expect(existsSync(path)).toBe(true);
    const titles = [...readFileSync(path, "utf8").matchAll(/\btest[^"`]*["`]([^"`]+)["`]/g)];
    expect(titles.map(([, title = ""]) => title)).toContainEqual(expect.stringContaining(name));
  });

  test("has every exit status", () => {
    const table = text.slice(text.indexOf("## Exit statuses"), text.indexOf("## Beside flock"));
    const statuses = [...table.matchAll(/^\| (\d+)( \+ N)? \|/gm)].map(([, status]) => Number(status));
    expect(statuses).toEqual(Object.values(exitStatus));
  });
});
