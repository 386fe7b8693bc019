import { isUtf8 } from "node:buffer";
import { readFileSync } from "node:fs";
import { hasCode } from "../contract/caught-error.ts";
import { quote } from "../contract/plain-text.ts";
import { usageFailure } from "./failure.ts";

/** The character that Node.js puts in the place of bytes that are not UTF-8. */
const replacement = "\ufffd";

let raw: readonly Buffer[] | undefined;

/**
 * The arguments of `pg-locker` as bytes, as they were given. Node.js decodes them as UTF-8, so that two different arguments can become the
 * same. The first call must come before the title of the process is set, which overwrites the arguments in memory.
 *
 * @throws {Failure} an argument may have been changed, and this system doesn't show the bytes
 */
export function rawArguments(): readonly Buffer[] {
  raw ??= readRaw(process.argv.slice(2));
  return raw;
}

function readRaw(args: readonly string[]): readonly Buffer[] {
  const suspect = args.find((each) => each.includes(replacement));
  if (suspect === undefined) return args.map((each) => Buffer.from(each));
  const shown = shownArguments();
  if (shown === undefined) throw notUtf8(suspect);
  return shown.slice(shown.length - args.length);
}

/** All arguments as Linux shows them, beginning with those of Node.js itself. */
function shownArguments(): Buffer[] | undefined {
  try {
    const text = readFileSync("/proc/self/cmdline", "latin1");
    return text
      .slice(0, -1)
      .split("\0")
      .map((each) => Buffer.from(each, "latin1"));
  } catch (error) {
    if (hasCode(error, "ENOENT", "EACCES")) return undefined;
    throw error;
  }
}

/**
 * Refuses arguments of `pg-locker` itself that are not UTF-8, because two different keys could become the same.
 *
 * @throws {Failure} an argument is not UTF-8
 */
export function expectUtf8(args: readonly string[]): void {
  const at = rawArguments().findIndex((bytes, index) => index < args.length && !isUtf8(bytes));
  if (at !== -1) throw notUtf8(args[at] ?? "");
}

function notUtf8(shown: string) {
  return usageFailure(`Expected UTF-8, but this argument is not: ${quote(shown)}`);
}
