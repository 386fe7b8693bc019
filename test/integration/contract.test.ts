import { describe, test } from "vitest";
import { testLockerContract } from "../../src/testing/contract/contract-suite.ts";
import { createPool } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";

const rows = [
  ["dedicated", "client"],
  ["dedicated", "server"],
  ["shared", "client"],
  ["shared", "server"],
] as const;

// The lockers of all cases share the same two pools, so that a lock that one of them leaves on a session is found by the next ones.
const pools = [createPool({ max: 40 }), createPool()] as const;

for (const [sessions, ttlEnforcement] of rows) {
  testLockerContract(`PostgresLocker, ${sessions} sessions, TTL enforced by the ${ttlEnforcement}`, {
    runner: { describe, test },
    transactions: true,
    create: async () => ({
      locker: createLocker({ pool: pools[0], sessions, ttlEnforcement }),
      another: () => createLocker({ pool: pools[1], sessions, ttlEnforcement }),
      // The first locks need a connection and a proof within their TTL, several at the same time.
      durations: { brief: 300 },
    }),
    deviations: ttlEnforcement === "client" ? ["lapsed-lock-stays"] : [],
    concurrent: true,
  });
}
