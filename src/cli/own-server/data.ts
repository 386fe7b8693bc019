import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import type { PostgresInstallation } from "../../testing/index.ts";
import { exitStatus } from "../exit-status.ts";
import { Failure } from "../failure.ts";
import { type OwnServerFolder, waysOut } from "./folder.ts";

const run = promisify(execFile);
const anHour = 3_600_000;

/**
 * Makes the data directory where there is none. It is there whole or not at all: `initdb` fills another one, which is put in its
 * place in one step. Of two processes that do so at once, the first one's stays.
 *
 * @throws {Failure} with what `initdb` says
 */
export async function initialise(
  data: string,
  options: { folder: OwnServerFolder; installation: PostgresInstallation; env: NodeJS.ProcessEnv },
): Promise<void> {
  await removeAbandoned(data);
  if (existsSync(join(data, "PG_VERSION"))) return;
  const { folder, installation, env } = options;
  const { account, directory } = installation;
  const fresh = `${data}.${randomBytes(4).toString("hex")}`;
  // The folder is closed to others, so whoever comes to the socket is let in.
  const args = [
    "-D",
    fresh,
    "-U",
    "postgres",
    "--auth=trust",
    "--no-locale",
    "-E",
    "UTF8",
    "--wal-segsize=1",
  ];
  try {
    await run(join(directory, "bin", "initdb"), args, { ...account, cwd: "/", env });
    await rename(fresh, data);
  } catch (error) {
    if (existsSync(join(data, "PG_VERSION"))) return;
    const said = error instanceof Error && "stderr" in error ? String(error.stderr).trim() : String(error);
    const lines = said
      .split("\n")
      .filter((line) => line.trim() !== "" && !/removing|^initdb: hint/.test(line));
    const why = lines.slice(-4).join("\n  ");
    const runner = account === undefined ? "" : `, as the user ${account.uid}`;
    throw new Failure(
      exitStatus.unavailable,
      `A PostgreSQL of your own can't be set up in ${folder.path}${runner}: ${waysOut}\n  ${why}`,
    );
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
}

/** What a process that was killed has left half-done. */
async function removeAbandoned(data: string): Promise<void> {
  const home = dirname(data);
  for (const name of await readdir(home)) {
    if (!name.startsWith(`${basename(data)}.`)) continue;
    const path = join(home, name);
    const { mtimeMs } = await stat(path);
    // A younger one may be somebody's who is at it.
    if (Date.now() - mtimeMs > anHour) await rm(path, { recursive: true, force: true });
  }
}
