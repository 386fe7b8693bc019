import { writeSync } from "node:fs";
import { shown } from "./plain.ts";

/** Writes a line for people to standard error. Nothing in it can move the cursor: see {@link shown}. */
export function tellUser(text: string): void {
  console.error(shown(text));
}

/**
 * Writes a line as {@link tellUser} does, but before it returns, for a process that is about to end. If nobody reads standard error, it
 * does nothing.
 */
export function tellUserAtOnce(text: string): void {
  try {
    writeSync(2, `${shown(text)}\n`);
  } catch {
    // It is closed, or full.
  }
}
