import { createRequire } from "node:module";

/** What tells how far two words are apart. Loaded when it is needed, as few commands ever do. */
export function spelling(): typeof import("fastest-levenshtein") {
  return createRequire(import.meta.url)("fastest-levenshtein") as typeof import("fastest-levenshtein");
}
