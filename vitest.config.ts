import { defineConfig } from "vitest/config";

export default defineConfig({
  // Node 20 parses no `await using`.
  oxc: { target: "es2022" },
  test: {
    include: ["test/**/*.test.ts"],
    // These install what others make: `npm run test:packages`.
    exclude: ["test/packages/**"],
    globalSetup: ["test/support/global-server.ts"],
    // Processes, not threads: a crash, a signal and a blocked event loop are those of one test file.
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 20_000,
    hookTimeout: 30_000,
  },
});
