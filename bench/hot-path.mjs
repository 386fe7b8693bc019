// Counts what an uncontended lock costs in the process: functions entered, files, garbage, memory. The machine hardly changes the counts.
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath, pathToFileURL } from "node:url";
// biome-ignore lint/correctness/noUndeclaredDependencies: it is the project's own, which builds the library
import { build } from "rolldown";
import { withDatabase } from "./database.mjs";
import { median } from "./statistics.mjs";

const rounds = 3;

export const aim = {
  acquire: { functions: 45, files: 9 },
  release: { functions: 30, files: 9 },
  bytes: 2_500,
  heldLock: 500,
  waiter: 1_024,
};

export function hotPath() {
  return withDatabase({}, async (url) => {
    const counts = [];
    for (let round = 0; round < rounds; round += 1) counts.push(await countHotPath(url));
    const of = (read) => median(counts.map(read));
    const { acquire, release } = counts[0];
    return {
      rounds,
      aim,
      acquire,
      release,
      bytes: of(({ bytes }) => bytes),
      heldLock: of(({ heldLock }) => heldLock),
      waiter: of(({ waiter }) => waiter),
    };
  });
}

/** Counts once, in a process of its own. The library is built with one file for each module. */
export async function countHotPath(url) {
  const root = fileURLToPath(new URL("..", import.meta.url));
  const library = await mkdtemp(join(root, "node_modules", ".hot-path-"));
  try {
    await build({
      input: join(root, "src/index.ts"),
      platform: "node",
      external: [/^[^./]/],
      transform: { target: "es2022" },
      output: { dir: library, preserveModules: true, preserveModulesRoot: join(root, "src") },
      logLevel: "silent",
    });
    const program = fileURLToPath(new URL("programs/hot-path.mjs", import.meta.url));
    const env = {
      ...process.env,
      LIBRARY: pathToFileURL(join(library, "index.js")).href,
      DATABASE_URL: url,
    };
    const child = spawn(process.execPath, [program], { env, stdio: ["ignore", "pipe", "inherit"] });
    const [said, [code]] = await Promise.all([text(child.stdout), once(child, "close")]);
    if (code !== 0) throw new Error(`hot-path.mjs ended with ${code}`);
    return JSON.parse(said);
  } finally {
    await rm(library, { recursive: true, force: true });
  }
}
