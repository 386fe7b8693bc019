import { execFile } from "node:child_process";
import { cp, rm, symlink } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const root = fileURLToPath(new URL("../../", import.meta.url));

/** Packs a copy of this repository that was never built into `folder`. */
export async function packClone(folder: string): Promise<{ tarball: string; paths: string[] }> {
  const clone = join(folder, "clone");
  const made = new Set([".git", "coverage", "dist", "node_modules", "temp"]);
  await cp(root, clone, { recursive: true, filter: (source) => !made.has(basename(source)) });
  await symlink(join(root, "node_modules"), join(clone, "node_modules"), "junction");
  const { stdout } = await promisify(execFile)(
    "npm",
    ["pack", "--json", "--silent", "--pack-destination", folder],
    // On Windows, npm is a script.
    { cwd: clone, shell: process.platform === "win32" },
  );
  await rm(clone, { recursive: true });
  // npm 10 prints a list of packages; npm 11 and later may print one by its name.
  const [packed] = Object.values(
    JSON.parse(stdout) as Record<string, { filename: string; files: { path: string }[] }>,
  );
  if (packed === undefined)
    throw new Error(`Expected \`npm pack\` to name what it packed, got \`${stdout}\``);
  return { tarball: join(folder, packed.filename), paths: packed.files.map((file) => file.path) };
}
