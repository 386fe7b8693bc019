import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, expect, test } from "vitest";
import { databaseUrl } from "../support/database.ts";

const run = promisify(execFile);
const root = fileURLToPath(new URL("../..", import.meta.url));
const readme = await readFile(join(root, "README.md"), "utf8");
const examples = [...readme.matchAll(/^```ts\n(.*?)^```$/gms)].map((match, index) => {
  const before = readme.slice(0, match.index);
  return {
    name: `example-${index + 1}`,
    line: before.split("\n").length,
    code: match[1] ?? "",
  };
});
let directory: string;

// As a user has it: a package of its own, with pg-locker, pg and vitest among its dependencies.
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "pg-locker-readme-"));
  const modules = join(directory, "node_modules");
  await mkdir(join(modules, "@types"), { recursive: true });
  await symlink(root, join(modules, "pg-locker"));
  for (const name of ["pg", "vitest", "@types/pg", "@types/node"]) {
    await symlink(join(root, "node_modules", name), join(modules, name));
  }
  const compilerOptions = {
    target: "es2022",
    lib: ["es2023", "esnext.disposable", "dom"],
    module: "nodenext",
    types: ["node"],
    strict: true,
    skipLibCheck: true,
    rootDir: ".",
    outDir: "out",
  };
  await writeFile(join(directory, "package.json"), '{ "type": "module" }');
  const files = examples.map(({ name }) => `${name}.ts`);
  await writeFile(join(directory, "tsconfig.json"), JSON.stringify({ compilerOptions, files }));
  for (const { name, code } of examples) {
    await writeFile(join(directory, `${name}.ts`), code);
  }
  const compiler = join(root, "node_modules/typescript/bin/tsc");
  await run(process.execPath, [compiler, "-p", directory]).catch((error: { stdout: string }) => {
    throw new Error(`the README's examples don't compile:\n${error.stdout}`);
  });
}, 60_000);

afterAll(() => rm(directory, { recursive: true, force: true }));

test("the README has examples", () => {
  expect(examples.length).toBeGreaterThan(3);
});

test.each(examples)("the README's example of line $line runs as printed", async ({ name }) => {
  const env = { ...process.env, DATABASE_URL: databaseUrl() };
  await run(process.execPath, [join(directory, "out", `${name}.js`)], { env, timeout: 15_000 });
});
