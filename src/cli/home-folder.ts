import { homedir, userInfo } from "node:os";
import { isAbsolute } from "node:path";

/**
 * The user's home folder: `HOME`, or the account's if that is empty or relative, because it would be another folder for each process.
 *
 * @throws {SystemError} `ERR_SYSTEM_ERROR`: `HOME` is no help, and the user id has no account
 */
export function homeFolder(): string {
  const home = homedir();
  return isAbsolute(home) ? home : userInfo().homedir;
}
