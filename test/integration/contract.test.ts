import { describe, test } from "vitest";
import { PostgresLocker } from "../../src/index.ts";
import { testLockerContract } from "../../src/testing/contract.ts";
import { createPool } from "../support/database.ts";

testLockerContract("PostgresLocker", {
  runner: { describe, test },
  create: async () => ({
    locker: new PostgresLocker({ pool: createPool() }),
    another: () => new PostgresLocker({ pool: createPool() }),
  }),
  deviations: ["lapsed-lock-stays"],
});
