import { execFile } from "node:child_process";
import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { packClone } from "../support/packed.ts";
import { textsOf } from "../support/sql-texts.ts";

const run = promisify(execFile);
const root = fileURLToPath(new URL("../../", import.meta.url));

/** What a user of the package might write. */
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

  test("is built as it is packed, and holds what it promises to and nothing else", () => {
    const allowed =
      /^(package\.json|[A-Z]+\.md|LICENSE|dist\/.+\.(js|d\.ts)|dist\/opentelemetry-api\.LICENSE|dist\/(cjs|cli)\/package\.json|(demo|examples)\/[\w-]+\.mjs|(docs|examples)\/.+\.(json|md|svg|yml))$/;
    expect(packed.filter((path) => !allowed.test(path))).toEqual([]);
    expect(packed).toEqual(
      expect.arrayContaining(["package.json", "LICENSE", "dist/index.js", "dist/cjs/index.d.ts"]),
    );
  });

  test("has every file that its pages link to", async () => {
    const pages = packed.filter((path) => path.endsWith(".md"));
    expect(pages).toContain("README.md");
    const broken: string[] = [];
    for (const page of pages) {
      const text = await readFile(join(folder, "node_modules", "pg-locker", page), "utf8");
      for (const [, target = ""] of text.matchAll(/\]\((?!https?:|#)([^)#\s]+)[^)]*\)/g)) {
        if (!packed.includes(join(dirname(page), target))) broken.push(`${page}: ${target}`);
      }
    }
    expect(broken).toEqual([]);
  });

  test("has each statement of its SQL in one line", async () => {
    for (const file of ["library.js", "apart.js", "cjs/library.js"]) {
      const code = await readFile(join(folder, "node_modules", "pg-locker", "dist", file), "utf8");
      const statements = textsOf(code).filter((text) => text.includes("pg_catalog."));
      expect(statements.length, file).toBeGreaterThan(5);
      expect(statements.filter((text) => /\n| {2}/.test(text))).toEqual([]);
    }
  });

  test("takes at most 3 MB on a disk with its dependencies, except the driver", async () => {
    const own = join(folder, "node_modules", "pg-locker");
    const { dependencies } = JSON.parse(await readFile(join(own, "package.json"), "utf8")) as {
      dependencies: Record<string, string>;
    };
    const all = [own, ...Object.keys(dependencies).map((name) => join(root, "node_modules", name))];
    const bytes = (await Promise.all(all.map(spaceOf))).reduce((sum, each) => sum + each, 0);
    expect(bytes).toBeGreaterThan(500_000);
    expect(bytes).toBeLessThan(3 * 2 ** 20);
  });

  test("says where it comes from", async () => {
    const manifest = JSON.parse(await readFile(join(root, "package.json"), "utf8")) as object;
    for (const field of ["author", "bugs", "homepage", "keywords", "license", "repository"]) {
      expect(manifest).toHaveProperty(field);
    }
  });

  test("loads nothing but three of its files", async () => {
    const script = `
      require("pg-locker");
      const files = Object.keys(require.cache).map((file) => file.split(/[\\\\/]node_modules[\\\\/]/).at(-1).split(/[\\\\/]/));
      console.log(JSON.stringify(files));
    `;
    const { stdout } = await run(process.execPath, ["--input-type=commonjs", "--eval", script], {
      cwd: folder,
    });
    const files = JSON.parse(stdout) as string[][];
    const own = files.filter(([name]) => name === "pg-locker");
    expect(own.map((path) => path.at(-1)).sort()).toEqual(["apart.js", "index.js", "library.js"]);
    expect(new Set(files.map(([name]) => name))).toEqual(new Set(["pg-locker"]));
  });

  test.each(["import", "require"])("writes to an application's global providers, by %s", async (how) => {
    const script = `
      import { createRequire } from "node:module";
      const ofTheApplication = createRequire(${JSON.stringify(join(root, "package.json"))});
      const { metrics, trace } = ofTheApplication("@opentelemetry/api");
      const { InMemorySpanExporter, SimpleSpanProcessor, BasicTracerProvider } = ofTheApplication("@opentelemetry/sdk-trace-base");
      const { AggregationTemporality, InMemoryMetricExporter, MeterProvider, PeriodicExportingMetricReader } =
        ofTheApplication("@opentelemetry/sdk-metrics");
      const { MemoryLocker } = ${how === "import" ? "await import" : "createRequire(import.meta.url)"}("pg-locker");
      const locker = new MemoryLocker();

      const spans = new InMemorySpanExporter();
      trace.setGlobalTracerProvider(new BasicTracerProvider({ spanProcessors: [new SimpleSpanProcessor(spans)] }));
      const exporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE);
      const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 });
      metrics.setGlobalMeterProvider(new MeterProvider({ readers: [reader] }));

      await locker.withLock("key", () => {});
      const { scopeMetrics } = (await reader.collect()).resourceMetrics;
      console.log(JSON.stringify({
        spans: spans.getFinishedSpans().map(({ name }) => name.split(".").at(-1)),
        acquires: scopeMetrics[0].metrics.find(({ descriptor }) => descriptor.name.endsWith("_acquires")).dataPoints[0].value,
      }));
      await reader.shutdown();
    `;
    const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", script], {
      cwd: folder,
    });
    expect(JSON.parse(stdout)).toEqual({ spans: ["acquire", "release"], acquires: 1 });
  });

  test("as an ES module and as CommonJS in one process, knows the errors of both", async () => {
    const script = `
      import * as one from "pg-locker";
      import { createRequire } from "node:module";
      const two = createRequire(import.meta.url)("pg-locker");
      const held = { key: "k", reason: "held" };
      class Derived extends one.LockerClosedError {}
      console.log(JSON.stringify([
        one.LockNotAcquiredError === two.LockNotAcquiredError,
        new two.LockNotAcquiredError(held) instanceof one.LockNotAcquiredError,
        new one.LockNotAcquiredError(held) instanceof two.LockNotAcquiredError,
        new two.LockerClosedError() instanceof one.LockerError,
        await new two.MemoryLocker().acquire("").catch((error) => error instanceof one.EmptyKeyError),
        new Derived() instanceof two.LockerClosedError,
        new two.LockerClosedError() instanceof one.LockNotAcquiredError,
        new two.LockerClosedError() instanceof Derived,
        Object.assign(new Error(), { code: "LOCKER_CLOSED" }) instanceof one.LockerClosedError,
      ]));
    `;
    const { stdout } = await run(process.execPath, ["--input-type=module", "--eval", script], {
      cwd: folder,
    });
    const [same, ...known] = JSON.parse(stdout) as boolean[];
    expect(same).toBe(false);
    expect(known).toEqual([true, true, true, true, true, false, false, false]);
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
    ["commonjs", "bundler"],
  ])(
    "has types that resolve with module %s, moduleResolution %s",
    async (module, moduleResolution) => {
      const project = join(folder, `tsconfig.${module}.json`);
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
    ["pg-locker/orm", "../../src/orm/index.ts"],
    ["pg-locker/testing", "../../src/testing/index.ts"],
  ])(
    "%s, imported or required by plain node, exports what its source does",
    async (specifier, source) => {
      const expected = Object.keys((await import(source)) as object).sort();
      for (const [type, load] of [
        ["module", "await import"],
        ["commonjs", "require"],
      ]) {
        const script = `console.log(JSON.stringify(Object.keys(${load}(${JSON.stringify(specifier)})).sort()))`;
        const { stdout } = await run(process.execPath, [`--input-type=${type}`, "--eval", script], {
          cwd: folder,
        });
        expect(JSON.parse(stdout)).toEqual(expected);
      }
    },
    30_000,
  );
});

/** The bytes that a folder takes on a disk, on which each file and folder takes whole blocks: what `du` says. */
async function spaceOf(folder: string): Promise<number> {
  const block = 4_096;
  const entries = await readdir(folder, { recursive: true });
  const stats = await Promise.all(entries.map((entry) => stat(join(folder, entry))));
  return stats.reduce((sum, { size }) => sum + Math.ceil(size / block) * block, 0);
}

/** Packs a clean clone into `folder/node_modules`, its dependencies linked. Returns the paths packed. */
async function installPacked(folder: string): Promise<string[]> {
  const modules = join(folder, "node_modules");
  await mkdir(modules);
  const { tarball, paths } = await packClone(folder);
  await run("tar", ["-xzf", tarball], { cwd: folder });
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
  return paths;
}
