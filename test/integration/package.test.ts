import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rename, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

const run = promisify(execFile);
const root = fileURLToPath(new URL("../../", import.meta.url));

/** What somebody who installed the package would write. */
const consumer = `
import { configFromEnv, createCircuitBreaker, LockNotAcquiredError, lockId, parseConfig } from "pg-locker";
import { MemoryLocker, PostgresLocker, type Lock, type Locker } from "pg-locker";
import type * as testing from "pg-locker/testing";
import pg from "pg";

export const lockers: Locker[] = [new MemoryLocker(), new PostgresLocker({ pool: new pg.Pool() })];
export const exported = [configFromEnv, createCircuitBreaker, parseConfig, LockNotAcquiredError];
export const id: bigint = lockId(7, "invoice:42");
export async function hold(locker: Locker): Promise<Lock> {
  return locker.acquire("invoice:42", { ttl: "30s" });
}
export type Testing = keyof typeof testing;
// @ts-expect-error the package has types: they are not any
export const wrong: string = lockId(7, "invoice:42");
`;

describe("the packed package", () => {
  let folder: string;
  let packed: string[];

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "pg-locker-package-"));
    packed = await installPacked(folder);
  }, 60_000);

  afterAll(() => rm(folder, { recursive: true, force: true }));

  test("holds what it promises to and nothing else", () => {
    const allowed = /^(package\.json|README\.md|LICENSE|CHANGELOG\.md|dist\/.+\.(js|d\.ts)|demo\/\w+\.mjs)$/;
    expect(packed.filter((path) => !allowed.test(path))).toEqual([]);
    expect(packed).toEqual(
      expect.arrayContaining(["package.json", "LICENSE", "dist/index.js", "dist/index.d.ts"]),
    );
  });

  test("has the demo that its command shows", async () => {
    const demo = ["demo.mjs", "chart.mjs", "judge.mjs", "worker.mjs"].map((name) => `demo/${name}`);
    expect(packed).toEqual(expect.arrayContaining(demo));
    const main = join(folder, "node_modules", "pg-locker", "dist", "cli", "main.js");
    const args = [main, "demo", "--url", "postgres://127.0.0.1:1/nowhere"];
    const { stderr } = await run(process.execPath, args).catch((failure: { stderr: string }) => failure);
    expect(stderr).toContain("ECONNREFUSED");
  });

  test.each([
    ["nodenext", "nodenext"],
    ["esnext", "bundler"],
  ])(
    "has types that resolve with module %s, moduleResolution %s",
    async (module, moduleResolution) => {
      const project = join(folder, `tsconfig.${moduleResolution}.json`);
      await writeFile(
        project,
        JSON.stringify({
          compilerOptions: {
            module,
            moduleResolution,
            target: "es2022",
            lib: ["es2023", "esnext.disposable"],
            types: ["node"],
            strict: true,
            exactOptionalPropertyTypes: true,
            skipLibCheck: false,
            noEmit: true,
          },
          files: ["consumer.ts"],
        }),
      );
      const tsc = join(root, "node_modules", "typescript", "bin", "tsc");
      const { stdout } = await run(process.execPath, [tsc, "-p", project], { cwd: folder }).catch(
        (failure: { stdout: string }) => failure,
      );
      expect(stdout).toBe("");
    },
    30_000,
  );

  test.each([
    ["pg-locker", "../../src/index.ts"],
    ["pg-locker/testing", "../../src/testing/index.ts"],
  ])(
    "%s, imported by plain node, exports what its source does",
    async (specifier, source) => {
      const script = `console.log(JSON.stringify(Object.keys(await import(${JSON.stringify(specifier)})).sort()))`;
      const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", script], {
        cwd: folder,
      });
      const expected = Object.keys((await import(source)) as object).sort();
      expect(JSON.parse(stdout)).toEqual(expected);
    },
    30_000,
  );
});

/** Packs this repository into `folder/node_modules`, its dependencies linked. Answers with the paths packed. */
async function installPacked(folder: string): Promise<string[]> {
  const modules = join(folder, "node_modules");
  await mkdir(modules);
  const { stdout } = await run(
    "npm",
    ["pack", "--json", "--ignore-scripts", "--pack-destination", folder],
    // On Windows, npm is a script.
    { cwd: root, shell: process.platform === "win32" },
  );
  const files = parsePacked(stdout);
  await run("tar", ["-xzf", files.filename], { cwd: folder });
  await rename(join(folder, "package"), join(modules, "pg-locker"));

  const manifest = JSON.parse(await readFile(join(modules, "pg-locker", "package.json"), "utf8")) as {
    dependencies: Record<string, string>;
    peerDependencies: Record<string, string>;
  };
  const needed = [manifest.dependencies, manifest.peerDependencies].flatMap((names) => Object.keys(names));
  for (const name of [...needed, "@types/node", "@types/pg"]) {
    await mkdir(dirname(join(modules, name)), { recursive: true });
    await symlink(join(root, "node_modules", name), join(modules, name), "junction");
  }
  await writeFile(join(folder, "package.json"), JSON.stringify({ type: "module" }));
  await writeFile(join(folder, "consumer.ts"), consumer);
  return files.paths;
}

/** npm 10 answers with a list of packages, npm 11 and later may with one by its name. */
function parsePacked(stdout: string): { filename: string; paths: string[] } {
  const answer = Object.values(
    JSON.parse(stdout) as Record<string, { filename: string; files: { path: string }[] }>,
  );
  const [packed] = answer;
  if (packed === undefined)
    throw new Error(`Expected \`npm pack\` to name what it packed, got \`${stdout}\``);
  return { filename: packed.filename, paths: packed.files.map((file) => file.path) };
}
