import { spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { linkSync, readFileSync, realpathSync, renameSync, rmSync, statSync, unlinkSync } from "node:fs";
import { hasCode } from "../../contract/caught-error.ts";

/** Milliseconds after which a server has surely written the lock file that it has created. */
const beginningMs = 5_000;

/** What `postmaster.pid`, or the lock file beside a socket, says about its server. */
export interface LockFile {
  readonly text: string;
  readonly pid: number;
  readonly data: string;
  /** Whether the server accepts connections; only `postmaster.pid` says so. */
  readonly isReady: boolean;
}

/** Reads a lock file of PostgreSQL. `undefined` if there is none, or it is not written yet. */
export function readLockFile(path: string): LockFile | undefined {
  let text: string;
  try {
    text = readFileSync(path, "utf8");
  } catch (error) {
    if (isGone(error)) return undefined;
    throw error;
  }
  const lines = text.split("\n");
  const pid = Number(lines[0]);
  if (!Number.isSafeInteger(pid) || pid <= 1) return undefined;
  // `pg_ctl -w` reads the eighth line, too: https://www.postgresql.org/docs/current/storage-file-layout.html
  return { text, pid, data: lines[1] ?? "", isReady: lines[7]?.trim() === "ready" };
}

/** Whether there is a process with this id. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return hasCode(error, "EPERM");
  }
}

/**
 * Removes a lock file that a crash has left if its process id now belongs to another program, or if it has stayed empty. PostgreSQL itself
 * only notices that there is no such process: it takes any living process of its own account for the server, and an empty file for that of
 * a server that is just starting. If in doubt, the file stays.
 */
export function removeIfStale(path: string): void {
  const { size, mtimeMs } = statSync(path, { throwIfNoEntry: false }) ?? {};
  if (size === 0 && Date.now() - Number(mtimeMs) > beginningMs) rmSync(path, { force: true });
  const file = readLockFile(path);
  if (file === undefined || !isAlive(file.pid) || isPostmaster(file.pid, file.data) !== false) return;
  // Renamed first and then compared, because another process may have removed it, and started a server that has written a new one.
  const aside = `${path}.${randomBytes(4).toString("hex")}`;
  try {
    renameSync(path, aside);
    if (readFileSync(aside, "utf8") !== file.text) linkSync(aside, path);
    unlinkSync(aside);
  } catch (error) {
    if (!isGone(error)) throw error;
  }
}

/** Whether a process is the server of a data directory. Every server that is started here has the directory among its arguments. */
function isPostmaster(pid: number, data: string): boolean | undefined {
  const args = argumentsOf(pid);
  if (args === undefined) return undefined;
  const at = args.indexOf("-D");
  return at !== -1 && samePath(args[at + 1] ?? "", data);
}

function argumentsOf(pid: number): string[] | undefined {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch (error) {
    if (!isGone(error)) throw error;
  }
  // This system has no /proc.
  const { status, stdout } = spawnSync("ps", ["-ww", "-o", "args=", "-p", String(pid)], { encoding: "utf8" });
  if (status !== 0) return undefined;
  const directory = / -D (.+?)(?: -c |$)/.exec(stdout.trim())?.[1];
  return directory === undefined ? [] : ["-D", directory];
}

function samePath(one: string, other: string): boolean {
  try {
    return realpathSync(one) === realpathSync(other);
  } catch (error) {
    if (!isGone(error)) throw error;
    return one === other;
  }
}

function isGone(error: unknown): boolean {
  return hasCode(error, "ENOENT", "ESRCH");
}
