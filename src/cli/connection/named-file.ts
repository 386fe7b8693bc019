import { readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { codeOf, hasCode } from "../../contract/caught-error.ts";
import { usageFailure } from "../failure.ts";

/**
 * The text of a file that something names.
 *
 * @param name what names it, for the sentence: `PGSSLROOTCERT`
 * @throws {Failure} if it can't be read
 */
export function readNamedFile(path: string, name: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch (error) {
    throw usageFailure(`${name} names the file ${path}, which can't be read (${codeOf(error) ?? "no file"})`);
  }
}

/** A file of the user's own, in the home folder; `undefined` if there is none, or no such folder. */
export function homeFile(...names: readonly string[]): string | undefined {
  try {
    const path = join(homedir(), ...names);
    return statSync(path).isFile() ? path : undefined;
  } catch (error) {
    // The account has no home, or this user may not look there. As libpq, this goes on without.
    if (hasCode(error, "ENOENT", "ENOTDIR", "EACCES", "ERR_SYSTEM_ERROR")) return undefined;
    throw error;
  }
}
