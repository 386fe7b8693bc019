import { availableParallelism } from "node:os";
import { fileURLToPath } from "node:url";
import { defineConfig, type Plugin } from "vitest/config";

/**
 * Whose tests hold over postgres.js as over node-postgres, except for those of the pool that is given. Left out is
 *
 * - what no driver has a part in: arguments, hooks, events, telemetry, semaphores, scopes, signals, the line of those who wait;
 * - what is about a pool or a client of node-postgres that the test wraps, patches or gives: `wrapped-pools`, `locks-kept`, `late-grant`,
 *   `mutants-targets`, `postgres-locker`, `client-lock`, `exchange`;
 * - what `postgres-js.test.ts` runs itself: the contract;
 * - what takes long, for the number of its locks or of its processes, or because it waits for the end of a TTL: `recovery-grace`, `recovery-overlap`,
 *   `pooler`, `synchronous-standby`, `many-at-once`, `waiting-limit`, `hold-at-least`, and most of `shared-sessions`.
 */
const overPostgresJs = [
  "abort",
  "acquire-all",
  "close",
  "elect",
  "fencing",
  "hostile-search-path",
  "inspect",
  "inspection",
  "key-answers",
  "network-namespace",
  "overlapping-refreshes",
  "pool-of-one",
  "process-exit",
  "queued-on-a-dead-session",
  "reservation",
  "server-ttl-network",
  "server-ttl-process",
  "server-ttl-session",
  "session-loss",
  "shared-session-races",
  "shared-sessions-abort",
  "shared-sessions-lock-table-full",
  "shared-sessions-loss",
  "stalls",
  "stuck-pool",
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

/** Shows a locker's connections over postgres.js on the pool that the test gave to `createLocker`. */
const shownPool: Plugin = {
  name: "shown-postgres-js-pool",
  enforce: "pre",
  resolveId(source, importer) {
    if (source !== "./postgres-js-pool.ts" || !importer?.endsWith("/src/postgres/own-pool.ts"))
      return undefined;
    return fileURLToPath(new URL("test/support/shown-postgres-js-pool.ts", import.meta.url));
  },
};

const shared = {
  // Node 20 parses no `await using`.
  oxc: { target: "es2022" },
  test: {
    // Processes, not threads: a crash, a signal and a blocked event loop are those of one test file.
    pool: "forks",
    // For a test that hangs, not for one that is slow on a busy machine: a server takes a second to start, or ten.
    testTimeout: 40_000,
    hookTimeout: 60_000,
  },
} as const;

export default defineConfig({
  test: {
    // Only here, because a project that inherits them runs them again, with a server of its own.
    globalSetup: [
      "test/support/memory-folder.ts",
      "test/support/without-certificates.ts",
      "test/support/global-server.ts",
    ],
    // More than there are cores: most of what a test file does is to wait, for a server, a process or the end of a TTL.
    maxWorkers: Math.min(8, Math.ceil(2.5 * availableParallelism())),
    projects: [
      {
        ...shared,
        test: {
          ...shared.test,
          name: "node-postgres",
          include: ["test/**/*.test.ts"],
          // These install what others make: `vitest.packages.config.ts`.
          exclude: ["test/packages/**"],
        },
      },
      {
        ...shared,
        plugins: [shownPool],
        test: {
          ...shared.test,
          name: "postgres-js",
          include: overPostgresJs.map((name) => `test/integration/${name}.test.ts`),
          // What `createLocker` in test/support/locker.ts goes by.
          env: { DRIVER: "postgres.js" },
        },
      },
    ],
  },
});
