import { spawn, spawnSync } from "node:child_process";
import { chmod, mkdtemp, rm, statfs, writeFile } from "node:fs/promises";
import { freemem } from "node:os";
import { join } from "node:path";

// A run creates and removes hundreds of thousands of files: a database has 300, a server 1,000. On a disk, that alone can take the kernel
// minutes: ext4 without a journal doesn't use an inode again soon after its file was removed, and searches ever longer for another.

const TMPFS = 0x01021994;
/** Bytes. A run has used half a gigabyte at a time. */
const NEEDED = 4 * 2 ** 30;

// Removes the folder when this process ends in any way, but not before the watchdogs of its servers have found them by their files.
const WATCHDOG = `
while read -r line; do :; done
tries=0
while [ $tries -lt 300 ]; do
  set -- "$1" "$1"/pg-locker-postgres-*
  [ -e "$2" ] || break
  tries=$((tries + 1))
  sleep 0.1
done
rm -rf -- "$1"
`;

/**
 * Makes a folder in memory the place of temporary files, for this process and those that it starts. Does nothing if `TMPDIR` is set, or if
 * `/dev/shm` is not in memory, is too small or may not have programs in it.
 *
 * @returns what removes the folder again
 */
export async function setup(): Promise<(() => Promise<void>) | undefined> {
  if (process.env["TMPDIR"] || !(await hasRoom("/dev/shm"))) return undefined;
  const folder = await mkdtemp("/dev/shm/pg-locker-").catch(() => undefined);
  if (folder === undefined) return undefined;
  // Like /tmp, because servers run as another account.
  await chmod(folder, 0o1777);
  const watchdog = spawn("/bin/sh", ["-c", WATCHDOG, "pg-locker-watchdog", folder], {
    cwd: "/",
    detached: true,
    stdio: ["pipe", "ignore", "ignore"],
  });
  const program = join(folder, "program");
  await writeFile(program, "#!/bin/sh\n", { mode: 0o755 });
  if (spawnSync(program).status === 0) process.env["TMPDIR"] = folder;
  return async () => {
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
    watchdog.kill("SIGKILL");
  };
}

async function hasRoom(folder: string): Promise<boolean> {
  const { type, bavail, bsize } = await statfs(folder).catch(() => ({ type: 0, bavail: 0, bsize: 0 }));
  const memory = Math.min(freemem(), process.constrainedMemory() || Number.POSITIVE_INFINITY);
  return type === TMPFS && bavail * bsize >= NEEDED && memory >= 2 * NEEDED;
}
