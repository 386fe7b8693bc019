import { readFileSync, statSync } from "node:fs";
import { homedir } from "node:os";
import { join } from "node:path";
import { codeOf, hasCode } from "../../contract/caught-error.ts";
import { usageFailure } from "../failure.ts";

/**
 * The text of a file that something names. A device or a FIFO is refused: to read it might never end, and no signal would end that.
 *
 * @param name what names it, for the sentence: `PGSSLROOTCERT`
 * @throws {Failure} if it can't be read
 */
export function readNamedFile(path: string, name: string): string {
  const refused = (why: string) => usageFailure(`${name} names the file ${path}, which ${why}`);
  let text: string | undefined;
  try {
    if (mayBeRead(path)) text = readFileSync(path, "utf8");
  } catch (error) {
    throw refused(`can't be read (${codeOf(error) ?? "no file"})`);
  }
  if (text === undefined) throw refused("is not a plain file");
  return text;
}

/** A plain file, nothing at all, or what a shell passes as `<(command)`; a folder says by itself what it is. */
function mayBeRead(path: string): boolean {
  const stat = statSync(path);
  return stat.isFile() || stat.isDirectory() || path === "/dev/null" || path.startsWith("/dev/fd/");
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
