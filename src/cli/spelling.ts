import { createRequire } from "node:module";

/** Computes the distance between two words. Loaded only when it is needed, because few commands ever do. */
export function spelling(): typeof import("fastest-levenshtein") {
  return createRequire(import.meta.url)("fastest-levenshtein") as typeof import("fastest-levenshtein");
}
