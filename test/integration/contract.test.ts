import { describe, test } from "vitest";
import { PostgresLocker } from "../../src/index.ts";
import { testLockerContract } from "../../src/testing/contract/contract-suite.ts";
import { createPool } from "../support/database.ts";

const rows = [
  ["dedicated", "client"],
  ["dedicated", "server"],
  ["shared", "client"],
  ["shared", "server"],
] as const;

for (const [sessions, ttlEnforcement] of rows) {
  testLockerContract(`PostgresLocker, ${sessions} sessions, TTL enforced by the ${ttlEnforcement}`, {
    runner: { describe, test },
    create: async () => ({
      locker: new PostgresLocker({ pool: createPool(), sessions, ttlEnforcement }),
      another: () => new PostgresLocker({ pool: createPool(), sessions, ttlEnforcement }),
    }),
    deviations: ttlEnforcement === "client" ? ["lapsed-lock-stays"] : [],
  });
}
