import { mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "rolldown";
import { expect, test } from "vitest";
import { Child } from "../support/child.ts";
import { databaseUrl } from "../support/database.ts";

// What an uncontended lock costs in the process. The numbers don't depend on the machine: a change that adds a function, a file or an
// object to the way of every lock fails here, and has to say why. docs/bench.md has the aims.

test("acquire and release enter few functions in few files, and leave little garbage", async () => {
  const root = fileURLToPath(new URL("../..", import.meta.url));
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
    const env = { LIBRARY: pathToFileURL(join(library, "index.js")).href, DATABASE_URL: databaseUrl() };
    await using child = Child.start("hot-path.mjs", { env });
    const { acquire, release, bytes, heldLock, waiter } = await child.message(
      (message) => "bytes" in message,
      {
        deadline: 60_000,
      },
    );
    expect(acquire).toMatchObject({ files: expect.toSatisfy((files: number) => files <= 27) });
    expect(acquire).toMatchObject({ functions: expect.toSatisfy((count: number) => count <= 110) });
    expect(release).toMatchObject({ files: expect.toSatisfy((files: number) => files <= 20) });
    expect(release).toMatchObject({ functions: expect.toSatisfy((count: number) => count <= 81) });
    expect(bytes).toBeLessThan(3_600);
    // What each keeps in memory: the handle and its promise, and the same for a caller in line.
    expect(heldLock).toBeLessThan(720);
    expect(waiter).toBeLessThan(720);
  } finally {
    await rm(library, { recursive: true, force: true });
  }
}, 60_000);
