import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readdir, readFile, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { readArguments } from "../../src/cli/arguments.ts";
import { breakLock } from "../../src/cli/break.ts";
import { demo } from "../../src/cli/demo.ts";
import { doctor } from "../../src/cli/doctor.ts";
import { id } from "../../src/cli/id.ts";
import { ls } from "../../src/cli/ls.ts";
import { run as runCommand } from "../../src/cli/run.ts";
import { server } from "../../src/cli/server.ts";
import { who } from "../../src/cli/who.ts";
import { databaseUrl } from "../support/database.ts";
import { type Snippet, snippetsOf } from "../support/snippets.ts";

const run = promisify(execFile);
const root = fileURLToPath(new URL("../..", import.meta.url));
const below = async (folder: string) =>
  (await readdir(join(root, folder), { recursive: true }))
    .map((name) => join(folder, name))
    .filter((name) => name.endsWith(".md") && !name.startsWith(join("docs", "api")));
const pages = ["README.md", "CONTRIBUTING.md", ...(await below("docs")), ...(await below("examples"))].sort();
const snippets = (
  await Promise.all(pages.map(async (page) => (await snippetsOf(page)).map((one) => ({ page, ...one }))))
).flat();
const isCode = ({ language }: Snippet) => language === "js" || language === "ts";

/** Pages whose code needs other packages: each has a test of its own that runs it. */
const runElsewhere: readonly (readonly [page: RegExp, test: string])[] = [
  [/^docs\/migrating\.md$/, "migrating.test.ts"],
  [/^docs\/monitoring\.md$/, "monitoring.test.ts"],
  [/^docs\/recipes\/orm\.md$/, "orm.test.ts"],
  [/^docs\/recipes\/[\w-]+\.md$/, "recipes.test.ts"],
];
const elsewhere = (page: string) => runElsewhere.find(([pattern]) => pattern.test(page))?.[1];

const programs = snippets
  .filter((one) => isCode(one) && elsewhere(one.page) === undefined)
  .map((one, index) => ({ ...one, name: `program-${index + 1}` }));
let directory: string;

// As for a user: a package of its own that depends on pg-locker, the drivers and vitest. Each block of JavaScript or TypeScript is a whole
// program.
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), "pg-locker-pages-"));
  const modules = join(directory, "node_modules");
  await mkdir(join(modules, "@types"), { recursive: true });
  await symlink(root, join(modules, "pg-locker"), "junction");
  for (const name of ["pg", "postgres", "vitest", "@types/pg", "@types/node"]) {
    await symlink(join(root, "node_modules", name), join(modules, name), "junction");
  }
  const compilerOptions = {
    target: "es2022",
    lib: ["es2023", "esnext.disposable", "dom"],
    module: "nodenext",
    types: ["node"],
    strict: true,
    exactOptionalPropertyTypes: true,
    skipLibCheck: true,
    rootDir: ".",
    outDir: "out",
  };
  await writeFile(join(directory, "package.json"), '{ "type": "module" }');
  const files = programs.map(({ name }) => `${name}.ts`);
  await writeFile(join(directory, "tsconfig.json"), JSON.stringify({ compilerOptions, files }));
  for (const { name, code, language } of programs) {
    await writeFile(join(directory, `${name}.ts`), code);
    if (language === "js") await writeFile(join(directory, `${name}.mjs`), code);
  }
  const compiler = join(root, "node_modules/typescript/bin/tsc");
  await run(process.execPath, [compiler, "-p", directory]).catch(({ stdout }: { stdout: string }) => {
    const places = programs.map(({ name, page, line }) => `${name}.ts: ${page}, line ${line}`);
    throw new Error(`a page's code doesn't compile:\n${stdout}\n${places.join("\n")}`);
  });
}, 60_000);

afterAll(() => rm(directory, { recursive: true, force: true }));

test("the README and the guide have programs", () => {
  for (const page of ["README.md", "docs/guide.md"]) {
    expect(programs.filter((program) => program.page === page).length, page).toBeGreaterThan(2);
  }
});

test("the README's first program is withLock, as JavaScript", () => {
  const [first] = programs.filter(({ page }) => page === "README.md");
  expect(first).toMatchObject({ language: "js", code: expect.stringContaining(".withLock(") });
});

test("the README is a page, not a book", async () => {
  const text = await readFile(join(root, "README.md"), "utf8");
  expect(text.trimEnd().split("\n").length).toBeLessThanOrEqual(180);
});

test("the figures are those that were measured last", async () => {
  const { pagesOf } = (await import(pathToFileURL(join(root, "bench/summary.mjs")).href)) as {
    pagesOf(results: unknown): Record<string, string>;
  };
  const results: unknown = JSON.parse(await readFile(join(root, "bench/results.json"), "utf8"));
  for (const [page, text] of Object.entries(pagesOf(results))) {
    expect(await readFile(join(root, page), "utf8"), page).toBe(text);
  }
});

test("no two programs take the same key, because they run at the same time", () => {
  const calls =
    /\b(?:withLock|tryWithLock|acquire|tryAcquire|withTransaction|elect|semaphore|wrapWithLock)\(\s*"([^"]+)"/g;
  const programsOf = new Map<string, Set<string>>();
  for (const { code, page, line } of programs.filter((one) => !one.code.includes("MemoryLocker"))) {
    for (const [, key = ""] of code.matchAll(calls)) {
      programsOf.set(key, (programsOf.get(key) ?? new Set()).add(`${page}, line ${line}`));
    }
  }
  expect(programsOf.size).toBeGreaterThan(10);
  const taken = [...programsOf].filter(([, places]) => places.size > 1);
  expect(taken.map(([key, places]) => `${key}: ${[...places].join("; ")}`)).toEqual([]);
});

test.concurrent.each(programs)(
  "$page, line $line, runs as it is printed",
  async ({ name, language }) => {
    const file = language === "js" ? `${name}.mjs` : join("out", `${name}.js`);
    const env = { ...process.env, DATABASE_URL: databaseUrl() };
    await run(process.execPath, [join(directory, file)], { env, timeout: 40_000 });
  },
  45_000,
);

describe("code that needs other packages", () => {
  const code = snippets.filter((one) => isCode(one) && elsewhere(one.page) !== undefined);

  test.each(runElsewhere)("%s has a test that takes it from the page", async (pattern, file) => {
    expect(code.filter(({ page }) => pattern.test(page)).length).toBeGreaterThan(0);
    expect(await readFile(join(root, "test/integration", file), "utf8")).toContain("snippetsOf(");
  });

  test("has the name of a file, by which its test takes it", () => {
    // monitoring.md has only one, which its test takes.
    const nameless = code.filter(({ title, page }) => title === undefined && page !== "docs/monitoring.md");
    expect(nameless.map(({ page, line }) => `${page}, line ${line}`)).toEqual([]);
  });
});

describe("commands for a shell", () => {
  const commands = { run: runCommand, ls, who, break: breakLock, id, doctor, server, demo };
  const lines = snippets
    .filter((one) => !isCode(one))
    .flatMap(({ page, line, code }) =>
      code
        .replaceAll(/\\\n\s*/g, "")
        .split("\n")
        .map((text) => ({ page, line, text })),
    );
  const calls = lines.flatMap(({ page, line, text }) =>
    [...text.matchAll(/\bpg-locker (run|ls|who|break|id|doctor|server|demo)(?= |$)([^|;&#]*)/g)].map(
      ([call, name = "", args = ""]) => ({ page, line, call, name: name as keyof typeof commands, args }),
    ),
  );

  test("has calls of pg-locker", () => {
    expect(calls.length).toBeGreaterThan(5);
  });

  test.each(calls)("$page, line $line: $call", ({ name, args }) => {
    const words = [...args.matchAll(/'([^']*)'|"([^"]*)"|(\S+)/g)].map(
      ([, one, two, three]) => one ?? two ?? three,
    );
    readArguments(commands[name], words as string[]);
  });

  test("names scripts and files that exist", async () => {
    const { scripts } = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as { scripts: object };
    const missing = lines.flatMap(({ page, text }) => [
      ...[...text.matchAll(/\bnpm run ([\w:]+)/g)]
        .filter(([, name = ""]) => !(name in scripts))
        .map(([call]) => `${page}: ${call}`),
      ...[...text.matchAll(/\bnode ((?:examples|bench|scripts|chaos|demo)\/\S+)/g)]
        .filter(([, file = ""]) => !existsSync(join(root, file)))
        .map(([call]) => `${page}: ${call}`),
    ]);
    expect(missing).toEqual([]);
    expect(Object.keys(scripts).length).toBeLessThanOrEqual(10);
  });
});

test.each(pages)("%s links to files and headings that exist", async (page) => {
  const broken: string[] = [];
  for (const [, target = "", heading] of (await textOf(page)).matchAll(
    /\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)/g,
  )) {
    const file = target === "" ? page : join(dirname(page), target);
    if (!existsSync(join(root, file))) broken.push(target);
    else if (heading !== undefined && !(await headingsOf(file)).includes(heading))
      broken.push(`${target}#${heading}`);
  }
  expect(broken).toEqual([]);
});

/** A page without its blocks of code. */
async function textOf(page: string): Promise<string> {
  return (await readFile(join(root, page), "utf8")).replaceAll(/^```[\s\S]*?^```$/gm, "");
}

/** The anchor of a heading, as GitHub and npm make it. */
async function headingsOf(page: string): Promise<string[]> {
  return [...(await textOf(page)).matchAll(/^#+ (.*)$/gm)].map(([, heading = ""]) =>
    heading
      .replaceAll(/\[([^\]]*)\]\([^)]*\)/g, "$1")
      .toLowerCase()
      .replaceAll(/[^\p{L}\p{N}\s_-]/gu, "")
      .trim()
      .replaceAll(/\s/g, "-"),
  );
}
