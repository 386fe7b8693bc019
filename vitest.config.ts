import { fileURLToPath } from "node:url";
import { defineConfig, type Plugin } from "vitest/config";

/** Whose tests hold for shared and for dedicated sessions alike, but for those that say `sessions` themselves. */
const bothWays = [
  "abort",
  "acquire-all",
  "bad-input",
  "circuit-breaker",
  "close",
  "connections-taken",
  "events",
  "fairness",
  "fencing",
  "id-collision",
  "inspect",
  "locks-kept",
  "network-namespace",
  "pooler",
  "postgres-locker",
  "reservation",
  "server-ttl",
  "session-loss",
  "telemetry",
  "trust",
  "waiting",
  "with-lock",
];

/** Puts `test/support/dedicated-by-default.ts` in the place of the library's public names. */
const dedicatedByDefault: Plugin = {
  name: "dedicated-by-default",
  enforce: "pre",
  resolveId(source, importer) {
    if (!source.endsWith("/src/index.ts") || importer?.endsWith("/dedicated-by-default.ts")) return undefined;
    return fileURLToPath(new URL("test/support/dedicated-by-default.ts", import.meta.url));
  },
};

export default defineConfig({
  // Node 20 parses no `await using`.
  oxc: { target: "es2022" },
  test: {
    globalSetup: ["test/support/global-server.ts"],
    // Processes, not threads: a crash, a signal and a blocked event loop are those of one test file.
    pool: "forks",
    maxWorkers: 2,
    testTimeout: 20_000,
    hookTimeout: 30_000,
    projects: [
      {
        extends: true,
        test: {
          name: "shared",
          include: ["test/**/*.test.ts"],
          // These install what others make: `npm run test:packages`.
          exclude: ["test/packages/**"],
          env: { SESSIONS: "shared" },
        },
      },
      {
        extends: true,
        plugins: [dedicatedByDefault],
        test: {
          name: "dedicated",
          include: bothWays.map((name) => `test/integration/${name}.test.ts`),
          env: { SESSIONS: "dedicated" },
        },
      },
    ],
  },
});
