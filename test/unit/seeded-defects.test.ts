import { existsSync, readFileSync } from "node:fs";
import { expect, test } from "vitest";
// biome-ignore lint/correctness/useImportExtensions: it is the JavaScript that is imported, beside its declarations
import { mutants } from "../../scripts/seeded-defects.mjs";

// `npm run mutants` takes minutes; that each defect still has its place in the source is seen here.

test.each(mutants.map((mutant) => [mutant.name, mutant] as const))(
  "the defect %s has its place in the source, once, and a test file that is to catch it",
  (_, { file, what, caughtBy }) => {
    expect(readFileSync(file, "utf8").split(what)).toHaveLength(2);
    expect(existsSync(caughtBy.file)).toBe(true);
  },
);
