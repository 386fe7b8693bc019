import { readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { codeOf, hasCode } from "../../contract/caught-error.ts";
import { usageFailure } from "../failure.ts";
import { homeFolder } from "../home-folder.ts";

/**
 * Reads a file that a setting names. Refuses a device or a FIFO, because reading it might never end, and no signal would interrupt it.
 *
 * @param name what names it, for the sentence: `PGSSLROOTCERT`
 * @throws {Failure} it can't be read
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

/** Whether it is a regular file, `/dev/null`, or a shell's `<(command)`. A folder is let through, because reading it fails clearly. */
function mayBeRead(path: string): boolean {
  const stat = statSync(path);
  return stat.isFile() || stat.isDirectory() || path === "/dev/null" || path.startsWith("/dev/fd/");
}

/** The path of a file in the user's home folder; `undefined` if there is no such file or no home folder. */
export function homeFile(...names: readonly string[]): string | undefined {
  try {
    const path = join(homeFolder(), ...names);
    return statSync(path).isFile() ? path : undefined;
  } catch (error) {
    // The account has no home, or this user may not look into it. As in libpq, that is no error.
    if (hasCode(error, "ENOENT", "ENOTDIR", "EACCES", "ERR_SYSTEM_ERROR")) return undefined;
    throw error;
  }
}
