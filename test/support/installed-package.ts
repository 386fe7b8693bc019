import { execFile } from "node:child_process";
import { cp, mkdtemp, rm, symlink } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { inject } from "vitest";

const run = promisify(execFile);
const root = fileURLToPath(new URL("../..", import.meta.url));

/** A package of `test/packages/`, installed into a temporary folder as a user would: with pg-locker as built into `dist/`. */
export class InstalledPackage implements AsyncDisposable {
  readonly folder: string;

  private constructor(folder: string) {
    this.folder = folder;
  }

  static async of(name: string): Promise<InstalledPackage> {
    const folder = await mkdtemp(join(tmpdir(), `pg-locker-${name}-`));
    try {
      await cp(join(root, "test/packages", name), folder, { recursive: true });
      // On Windows, npm is a script.
      const options = { cwd: folder, shell: process.platform === "win32", env: environment() };
      await run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"], options);
      await symlink(root, join(folder, "node_modules", "pg-locker"), "junction");
    } catch (error) {
      await rm(folder, { recursive: true, force: true });
      throw error;
    }
    return new InstalledPackage(folder);
  }

  /** The exports of a module of its dependencies. */
  require<T>(name: string): T {
    return createRequire(join(this.folder, "package.json"))(name) as T;
  }

  /** Compiles its TypeScript. @throws Error with the compiler's messages */
  async compile(): Promise<void> {
    const compiler = join(root, "node_modules/typescript/bin/tsc");
    await this.node([compiler, "-p", this.folder]).catch((error: { stdout: string }) => {
      throw new Error(`it doesn't compile:\n${error.stdout}`);
    });
  }

  /** Runs Node.js in its folder. Rejects unless that succeeds within 60 s. */
  async node(
    args: readonly string[],
    env: NodeJS.ProcessEnv = {},
  ): Promise<{ stdout: string; stderr: string }> {
    const options = { cwd: this.folder, env: { ...process.env, ...env }, timeout: 60_000 };
    return await run(process.execPath, [...args], options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** The environment with the certificates of the network, if it needs some of its own. */
function environment(): NodeJS.ProcessEnv {
  const certificates = inject("extraCertificates");
  return certificates ? { ...process.env, NODE_EXTRA_CA_CERTS: certificates } : process.env;
}
