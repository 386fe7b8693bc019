#!/usr/bin/env node
// The program `pg-locker`. It imports nothing statically, so that it can report a failed import in a sentence: if too few open files are
// allowed, Node.js fails while loading modules, with a stack trace.
const program = import("./main.ts").then(({ loaded }) => loaded);
program.catch((error: unknown) => {
  const text = error instanceof Error ? error.message : String(error);
  const tooFew =
    "Too few files may be open at once, by `ulimit -n` or in the whole system: raise the limit, to 256 or more";
  // As in plain.ts: it may name a file with any name.
  const shown = text.replace(/[^\P{C}\n]/gu, "\ufffd");
  console.error(`pg-locker: ${/\b(EMFILE|ENFILE)\b/.test(text) ? tooFew : shown}`);
  // The status of any other error, see exit-status.ts.
  process.exitCode = 70;
});
