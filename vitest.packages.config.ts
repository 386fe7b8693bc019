import { defineConfig } from "vitest/config";

// `npx vitest run -c vitest.packages.config.ts`: installs the packed package beside the compilers, runners, bundlers and runtimes of others. Minutes, and
// a registry: no part of `npm test`.
export default defineConfig({
  oxc: { target: "es2022" },
  test: {
    globalSetup: ["test/support/global-server.ts"],
    include: ["test/packages/**/*.test.ts"],
    pool: "forks",
    testTimeout: 120_000,
    hookTimeout: 420_000,
    maxConcurrency: 2,
  },
});
