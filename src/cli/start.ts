#!/usr/bin/env node
// The program `pg-locker`. It imports nothing before it can say, in a sentence, that it could not: with too few open files
// allowed, Node.js fails in the middle of loading, with a stack.
import("./main.ts").catch((error: unknown) => {
  const text = error instanceof Error ? error.message : String(error);
  const tooFew =
    "Too few files may be open at once, by `ulimit -n` or in the whole system: raise the limit, to 256 or more";
  console.error(`pg-locker: ${/\b(EMFILE|ENFILE)\b/.test(text) ? tooFew : text}`);
  // That of whatever else went wrong, see exit-status.ts.
  process.exitCode = 70;
});
