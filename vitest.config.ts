import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { defineConfig, type Plugin } from "vitest/config";

/**
 * Whose tests hold over postgres.js as over node-postgres, except for those of the pool that is given. Left out is what no driver has a
 * part in: arguments, hooks, telemetry, semaphores, the line of those who wait, a lock on the caller's own client; and what takes long
 * for the number of its locks or of its processes.
 */
const overPostgresJs = [
  "abort",
  "acquire-all",
  "close",
  "elect",
  "fencing",
  "inspect",
  "overlapping-refreshes",
  "pool-of-one",
  "process-exit",
  "queued-on-a-dead-session",
  "reservation",
  "server-ttl-network",
  "server-ttl-process",
  "server-ttl-session",
  "session-loss",
  "stalls",
  "transaction",
  "transaction-stall",
  "transaction-state",
  "transaction-ttl",
  "transaction-wait",
  "trust",
  "waiting",
  "waiting-aborts",
  "waiting-faults",
  "waiting-granted",
];

/** Puts a locker over postgres.js in the place of the library's, and a pool in which its connections show in that of its own. */
const inPlaceOfLibrary: Plugin = {
  name: "over-postgres-js",
  enforce: "pre",
  resolveId(source, importer) {
    const inPlace = (name: string) => fileURLToPath(new URL(`test/support/${name}`, import.meta.url));
    if (source.endsWith("/src/index.ts") && !importer?.endsWith("/over-postgres-js.ts"))
      return inPlace("over-postgres-js.ts");
    if (source === "./postgres-js-pool.ts" && importer?.endsWith("/src/postgres/own-pool.ts"))
      return inPlace("shown-postgres-js-pool.ts");
    return undefined;
  },
};

export default defineConfig({
  // Node 20 parses no `await using`.
  oxc: { target: "es2022" },
  test: {
    globalSetup: ["test/support/global-server.ts"],
    // Processes, not threads: a crash, a signal and a blocked event loop are those of one test file.
    pool: "forks",
    // More than there are cores: most of what a test file does is to wait, for a server, a process or the end of a TTL.
    maxWorkers: Math.min(8, 2 * availableParallelism()),
    // For a test that hangs, not for one that is slow on a busy machine: a server takes a second to start, or ten.
    testTimeout: 40_000,
    hookTimeout: 60_000,
    projects: [
      {
        extends: true,
        test: {
          name: "node-postgres",
          include: ["test/**/*.test.ts"],
          // These install what others make: `vitest.packages.config.ts`.
          exclude: ["test/packages/**"],
        },
      },
      {
        extends: true,
        plugins: [inPlaceOfLibrary],
        test: {
          name: "postgres-js",
          include: overPostgresJs.map((name) => `test/integration/${name}.test.ts`),
          env: { DRIVER: "postgres.js" },
        },
      },
    ],
  },
});
