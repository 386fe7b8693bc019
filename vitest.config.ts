import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";

/** Whose tests hold over postgres.js as over node-postgres, except for those of the pool that is given. */
const overPostgresJs = [
  "close",
  "session-loss",
  "transaction",
  "transaction-ttl",
  "transaction-wait",
  "waiting-aborts",
  "waiting-faults",
];

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
        test: {
          name: "postgres-js",
          include: overPostgresJs.map((name) => `test/integration/${name}.test.ts`),
          // What `createLocker` in test/support/locker.ts goes by.
          env: { DRIVER: "postgres.js" },
        },
      },
    ],
  },
});
