import { readdirSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
// biome-ignore lint/correctness/useImportExtensions: it is the JavaScript that is imported, beside its declarations
import { mutants } from "../../scripts/seeded-defects.mjs";
import { fullNameOf, titlesOf } from "../support/test-titles.ts";

// `node scripts/mutants.mjs` takes minutes; this only checks that each defect still has its place in the source.

test.each(mutants.map((mutant) => [mutant.name, mutant] as const))(
  "the defect %s has its place in the source, once, and its test is there",
  (_, { file, what, caughtBy }) => {
    expect(readFileSync(file, "utf8").split(what)).toHaveLength(2);
    expect(isTest(caughtBy)).toBe(true);
  },
);

function isTest({ file, test }: { readonly file: string; readonly test: string }): boolean {
  const text = readFileSync(file, "utf8");
  if (titlesOf(text).some((title) => title.kind === "test" && fullNameOf(title).test(test))) return true;
  // The titles of contract tests are the names of the cases.
  const cases = text.includes("testLockerContract(") ? readdirSync("src/testing/contract") : [];
  const says = /says: "([^"]+)"/g;
  return cases
    .flatMap((name) => [...readFileSync(`src/testing/contract/${name}`, "utf8").matchAll(says)])
    .some(([, title = ""]) => test.endsWith(` ${title}`));
}
