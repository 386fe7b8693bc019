import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { expect, test } from "vitest";
import { databaseUrl } from "../support/database.ts";

// What an uncontended lock costs in the process. The numbers don't depend on the machine: a change that adds a function, a file or an
// object to the way of every lock fails here, and has to say why. docs/bench.md has the aims.

interface Entered {
  readonly functions: number;
  readonly files: number;
}

interface Counts {
  readonly acquire: Entered;
  readonly release: Entered;
  readonly bytes: number;
  readonly heldLock: number;
  readonly waiter: number;
}

const root = fileURLToPath(new URL("../..", import.meta.url));

test("acquire and release enter few functions in few files, and leave little garbage", async () => {
  const { countHotPath } = (await import(pathToFileURL(join(root, "bench/hot-path.mjs")).href)) as {
    countHotPath(url: string): Promise<Counts>;
  };
  const { acquire, release, bytes, heldLock, waiter } = await countHotPath(databaseUrl());
  expect(acquire.files).toBeLessThanOrEqual(24);
  expect(acquire.functions).toBeLessThanOrEqual(77);
  expect(release.files).toBeLessThanOrEqual(18);
  expect(release.functions).toBeLessThanOrEqual(64);
  expect(bytes).toBeLessThan(2_600);
  // What each keeps in memory: the handle and its promise, and the same for a caller in line.
  expect(heldLock).toBeLessThan(530);
  expect(waiter).toBeLessThan(720);
}, 60_000);
