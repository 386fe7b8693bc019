import { availableParallelism } from "node:os";
import { defineConfig } from "vitest/config";

export default defineConfig({
  // Node 20 parses no `await using`.
  oxc: { target: "es2022" },
  test: {
    include: ["test/**/*.test.ts"],
    // These install what others make: `vitest.packages.config.ts`.
    exclude: ["test/packages/**"],
    globalSetup: ["test/support/global-server.ts"],
    // Processes, not threads: a crash, a signal and a blocked event loop are those of one test file.
    pool: "forks",
    // More than there are cores: most of what a test file does is to wait, for a server, a process or the end of a TTL.
    maxWorkers: Math.min(8, 2 * availableParallelism()),
    testTimeout: 20_000,
    hookTimeout: 30_000,
  },
});
