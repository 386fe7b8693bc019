import { execFile } from "node:child_process";
import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { readdir, rename, rm, stat } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import type { PostgresInstallation } from "../../testing/index.ts";
import { unavailableFailure } from "../failure.ts";
import { type OwnServerFolder, waysOut } from "./folder.ts";

const run = promisify(execFile);
const anHour = 3_600_000;

/**
 * Creates the data directory if there is none, whole or not at all: `initdb` fills another directory, which is then renamed in one step. If
 * two processes do so at once, the first one's directory stays.
 *
 * @throws {Failure} `initdb` failed; with its output
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
  // Only this user can enter the folder, so the server lets in everybody who reaches its socket.
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
    throw unavailableFailure(
      `A PostgreSQL of your own can't be set up in ${folder.path}${runner}: ${waysOut}\n  ${why}`,
    );
  } finally {
    await rm(fresh, { recursive: true, force: true });
  }
}

/** Removes what a killed process has left half-done. */
async function removeAbandoned(data: string): Promise<void> {
  const home = dirname(data);
  for (const name of await readdir(home)) {
    if (!name.startsWith(`${basename(data)}.`)) continue;
    const path = join(home, name);
    const { mtimeMs } = await stat(path);
    // A younger directory may belong to a process that is filling it.
    if (Date.now() - mtimeMs > anHour) await rm(path, { recursive: true, force: true });
  }
}
