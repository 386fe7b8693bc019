import { chown, copyFile, mkdir, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { hasCode } from "../../contract/caught-error.ts";
import type { PostgresAccount } from "./account.ts";

// What a base backup should leave out, according to PostgreSQL's documentation: files of the running server, WAL (the standby streams
// it) and files that are rebuilt at start-up. The directories themselves must exist.
const EMPTY_DIRECTORIES = new Set([
  "pg_wal",
  "pg_replslot",
  "pg_dynshmem",
  "pg_notify",
  "pg_serial",
  "pg_snapshots",
  "pg_stat_tmp",
  "pg_subtrans",
]);
const LEFT_OUT = new Set(["postmaster.pid", "postmaster.opts"]);

/** The server that a backup copies. */
export interface BackupSource {
  readonly url: string;
  readonly major: number;
  readonly dataDirectory: string;
}

/**
 * Copies the data of a running server to the directory `to`, which must not exist, so that it can be started as a standby. It makes a
 * low-level base backup, because the npm packages have no `pg_basebackup`.
 *
 * https://www.postgresql.org/docs/current/continuous-archiving.html#BACKUP-LOWLEVEL-BASE-BACKUP
 */
export async function copyForStandby(options: {
  from: BackupSource;
  to: string;
  account: PostgresAccount | undefined;
}): Promise<void> {
  const { from, to, account } = options;
  const { default: pg } = await import("pg");
  const client = new pg.Client({ connectionString: from.url });
  client.on("error", () => {}); // The current statement, or the next one, rejects with the error.
  await client.connect();
  try {
    // A backup belongs to its session and ends with it, so both calls use one client.
    const [start, stop] =
      from.major >= 15
        ? ["select pg_backup_start('pg-locker', true)", "select labelfile from pg_backup_stop(false)"]
        : [
            "select pg_start_backup('pg-locker', true, false)",
            "select labelfile from pg_stop_backup(false, false)",
          ];
    await client.query(start);
    await copyDirectory(from.dataDirectory, to, account);
    const { rows } = await client.query<{ labelfile: string }>(stop);
    const files = { backup_label: rows[0]?.labelfile ?? "", "standby.signal": "" };
    for (const [name, content] of Object.entries(files)) {
      await writeFile(join(to, name), content, { mode: 0o600 });
      if (account) await chown(join(to, name), account.uid, account.gid);
    }
  } finally {
    await client.end();
  }
}

async function copyDirectory(from: string, to: string, account: PostgresAccount | undefined): Promise<void> {
  await mkdir(to, { mode: 0o700 });
  if (account) await chown(to, account.uid, account.gid);
  for (const entry of await readdir(from, { withFileTypes: true })) {
    const source = join(from, entry.name);
    const target = join(to, entry.name);
    if (LEFT_OUT.has(entry.name)) continue;
    if (EMPTY_DIRECTORIES.has(entry.name)) {
      await mkdir(target, { mode: 0o700 });
      if (account) await chown(target, account.uid, account.gid);
    } else if (entry.isDirectory()) {
      await copyDirectory(source, target, account);
    } else {
      await copyLiveFile(source, target, account);
    }
  }
}

/** Copies a file that may be dropped at any time: replaying the WAL drops it in the copy too. */
async function copyLiveFile(
  source: string,
  target: string,
  account: PostgresAccount | undefined,
): Promise<void> {
  try {
    await copyFile(source, target);
  } catch (error) {
    if (hasCode(error, "ENOENT")) return;
    throw error;
  }
  if (account) await chown(target, account.uid, account.gid);
}
