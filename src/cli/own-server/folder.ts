import { chmodSync, mkdirSync, statSync } from "node:fs";
import { chmod, chown, mkdir } from "node:fs/promises";
import { dirname, isAbsolute, join } from "node:path";
import { codeOf, hasCode } from "../../contract/caught-error.ts";
import type { PostgresAccount } from "../../testing/index.ts";
import { Failure, unavailableFailure } from "../failure.ts";
import { homeFolder } from "../home-folder.ts";

/** The folder of the user's own PostgreSQL. */
export interface OwnServerFolder {
  readonly path: string;
  /** The path of the link to the keeper's socket. */
  readonly keeper: string;
  /** The path of the log of the keeper, `initdb` and the server. */
  readonly log: string;
  /**
   * The directory of the server's socket. It is the same for every major version, so that PostgreSQL's own lock file beside the socket keeps
   * servers of two versions from running at once, which could grant one lock twice.
   */
  readonly sockets: string;
}

/** The port, which is only a part of the socket's name. */
export const ownServerPort = 5432;

/** The longest socket path in bytes: the size of `sun_path` without the final zero. */
const longestSocket = process.platform === "darwin" ? 103 : 107;

/** What the user can do if the folder can't be used. */
export const waysOut = "choose another folder with XDG_STATE_HOME, or a database with DATABASE_URL";

/**
 * Returns `$XDG_STATE_HOME/pg-locker`, or `~/.local/state/pg-locker` without that variable; for root `/var/lib/pg-locker`, because root's
 * server runs as another account, which can't enter root's home. Creates nothing.
 *
 * @throws {Failure} the path of a socket in the folder would be too long
 */
export function ownServerFolder(env: NodeJS.ProcessEnv = process.env): OwnServerFolder {
  const path = join(stateHome(env), "pg-locker");
  const sockets = join(path, "socket");
  const socket = Buffer.byteLength(join(sockets, `.s.PGSQL.${ownServerPort}`));
  if (socket > longestSocket) {
    throw unavailableFailure(
      `The folder ${path} is ${socket - longestSocket} bytes too long for a socket in it: ${waysOut}`,
    );
  }
  return { path, sockets, keeper: join(path, "keeper"), log: join(path, "server.log") };
}

function stateHome(env: NodeJS.ProcessEnv): string {
  const given = env["XDG_STATE_HOME"];
  // The specification says to ignore a relative path.
  if (given !== undefined && isAbsolute(given)) return given;
  return process.getuid?.() === 0 ? "/var/lib" : join(home(), ".local", "state");
}

function home(): string {
  try {
    return homeFolder();
  } catch (error) {
    if (codeOf(error) !== "ERR_SYSTEM_ERROR") throw error;
    throw unavailableFailure(
      `The user id ${process.getuid?.()} has no account, and so no home folder: ${waysOut}`,
    );
  }
}

/**
 * Creates the folder itself, closed to other users.
 *
 * @throws {Failure} it can't be created or written to, or belongs to another user
 */
export function makeFolder({ path }: OwnServerFolder): void {
  try {
    const user = process.getuid?.();
    const first = makeWithParents(path);
    if (user === 0 && first !== undefined) openToAccount(dirname(path), first);
    const { uid } = statSync(path);
    if (uid !== user) {
      throw unavailableFailure(`The folder ${path} belongs to the user ${uid}, not to ${user}: ${waysOut}`);
    }
  } catch (error) {
    throw folderFailure(path, error);
  }
}

/**
 * Creates a folder, and the missing ones above it. Node.js's own `recursive` never returns if the file system says that the parent of a new
 * folder doesn't exist, although it does, as in /proc and in folders of an automounter.
 *
 * @returns the uppermost folder that was created
 */
function makeWithParents(path: string): string | undefined {
  try {
    return make(path) ? path : undefined;
  } catch (error) {
    if (!hasCode(error, "ENOENT") || dirname(path) === path) throw error;
  }
  const first = makeWithParents(dirname(path));
  return make(path) ? (first ?? path) : first;
}

/** Returns false if the folder is there already, perhaps because another command has just made it. */
function make(path: string): boolean {
  try {
    mkdirSync(path, { mode: 0o700 });
    return true;
  } catch (error) {
    if (hasCode(error, "EEXIST") && statSync(path).isDirectory()) return false;
    throw error;
  }
}

/** Lets the account of root's server pass through the parent folders that were created, beginning with `first`. */
function openToAccount(parent: string, first: string): void {
  for (let each = parent; each.length >= first.length; each = dirname(each)) chmodSync(each, 0o711);
}

/** The failure that says what is wrong with the folder, or with the system if it doesn't let a program run. */
export function folderFailure(path: string, error: unknown): Failure {
  if (error instanceof Failure) return error;
  if (error instanceof Error && "syscall" in error && String(error.syscall).startsWith("spawn")) {
    return unavailableFailure(`A PostgreSQL of your own can't be started: ${error.message}`);
  }
  const code = codeOf(error) ?? String(error);
  const why = reasons[code] ?? code;
  return unavailableFailure(
    `The folder ${path} for a PostgreSQL of your own can't be written to (${why}): ${waysOut}`,
  );
}

const reasons: Readonly<Record<string, string>> = {
  EACCES: "permission denied",
  EEXIST: "something on its path is no folder",
  EDQUOT: "the quota is used up",
  ENOENT: "no folder can be made there",
  ENOSPC: "no space left on the disk",
  ENOTDIR: "something on its path is no folder",
  EPERM: "permission denied",
  EROFS: "it is read-only",
};

/**
 * Creates the folders of the account that runs the server. Root's own folder stays root's, and the account can only pass through it, so it
 * can't replace root's files there, such as the log, by links to something else.
 */
export async function makeServerFolders(
  folder: OwnServerFolder,
  options: { major: number; account: PostgresAccount | undefined },
): Promise<{ data: string }> {
  const { account, major } = options;
  await chmod(folder.path, account ? 0o710 : 0o700);
  if (account) await chown(folder.path, 0, account.gid);
  const home = join(folder.path, String(major));
  for (const each of [folder.sockets, home]) {
    await mkdir(each, { recursive: true, mode: 0o700 });
    if (account) await chown(each, account.uid, account.gid);
  }
  return { data: join(home, "data") };
}
