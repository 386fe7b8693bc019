import { existsSync, readdirSync, readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { POSTGRES_PACKAGE_VERSIONS } from "../../src/testing/postgres/versions.ts";

// The workflows in .github run what can be run here, on all supported versions.

const folder = ".github/workflows";
const workflows = readdirSync(folder).map((name) => ({
  name,
  text: readFileSync(`${folder}/${name}`, "utf8"),
}));
const ci = workflows.find(({ name }) => name === "ci.yml")?.text ?? "";

/** The numbers in a matrix, such as those of `node: [20, 22, 24]`. */
function matrix(of: string): number[] {
  const [, list = ""] = new RegExp(`^ +${of}: \\[([\\d, ]+)\\]$`, "m").exec(ci) ?? [];
  return list.split(",").map(Number);
}

describe("the workflows", () => {
  test("run every major of PostgreSQL that is supported", () => {
    expect(matrix("postgres")).toEqual(Object.keys(POSTGRES_PACKAGE_VERSIONS).map(Number));
  });

  test("run every major of Node.js that scripts/test-nodes.mjs knows", () => {
    const [, versions = ""] =
      /VERSIONS = \{([^}]+)\}/.exec(readFileSync("scripts/test-nodes.mjs", "utf8")) ?? [];
    expect(matrix("node")).toEqual([...versions.matchAll(/(\d+):/g)].map(([, major]) => Number(major)));
  });

  test.each(workflows)("run scripts that exist: $name", ({ text }) => {
    const { scripts } = JSON.parse(readFileSync("package.json", "utf8")) as { scripts: object };
    const asked = [...text.matchAll(/npm (?:run )?([\w:]+)/g)].map(([, name = ""]) => name);
    const ofNpm = ["ci", "publish"];
    expect(asked.length).toBeGreaterThan(0);
    expect(asked.filter((name) => !ofNpm.includes(name) && !Object.hasOwn(scripts, name))).toEqual([]);
    const files = [...text.matchAll(/(?:node|-c) ([\w./-]+\.m?[jt]s)/g)].map(([, file = ""]) => file);
    expect(files.filter((file) => !existsSync(file))).toEqual([]);
    expect(text).toContain(".ci/run");
  });

  test.each(workflows)("may only read, unless a job says otherwise: $name", ({ text }) => {
    expect(text).toMatch(/^permissions:\n {2}contents: read$/m);
  });
});
