import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import { databaseUrl, uniqueKey } from "../support/database.ts";

// The time that a command takes to start depends on what it loads: `bench/cli-start.mjs` measures the times.

const program = fileURLToPath(new URL("../../dist/cli/start.js", import.meta.url));

/** Returns the files and the Node.js modules that a command has loaded by its end. */
function loadedBy(args: readonly string[]): string[] {
  const folder = mkdtempSync(join(tmpdir(), "pg-locker-start-"));
  try {
    const hook = join(folder, "hook.cjs");
    const list = join(folder, "list.json");
    writeFileSync(
      hook,
      `if (process.argv[1] === ${JSON.stringify(program)}) process.on("exit", () => require("node:fs").writeFileSync(
        ${JSON.stringify(list)}, JSON.stringify([...Object.keys(require.cache), ...process.moduleLoadList])));`,
    );
    const { status, stderr } = spawnSync(process.execPath, ["--require", hook, program, ...args], {
      encoding: "utf8",
      env: { PATH: process.env["PATH"], DATABASE_URL: databaseUrl() },
    });
    expect([status, stderr]).toEqual([0, ""]);
    return JSON.parse(readFileSync(list, "utf8")) as string[];
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe("a command loads", () => {
  test("id: no package", () => {
    const loaded = loadedBy(["id", "x"]);
    expect(loaded.filter((name) => name.includes("node_modules"))).toEqual([]);
    expect(loaded.filter((name) => name.includes("/dist/cli/")).length).toBeLessThanOrEqual(13);
  });

  test("run: no package but the driver, and not the fetch of Node.js", () => {
    const loaded = loadedBy(["run", uniqueKey(), "--", "true"]);
    const packages = loaded.flatMap((name) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(name)?.[1] ?? []);
    expect(packages.filter((name) => !/^(pg|pg-.*|postgres-.*|xtend)$/.test(name))).toEqual([]);
    expect(loaded.filter((name) => /\bundici\b/.test(name))).toEqual([]);
  });
});
