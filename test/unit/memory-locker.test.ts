import { describe, test } from "vitest";
import { MemoryLocker } from "../../src/index.ts";
import { testLockerContract } from "../../src/testing/contract/contract-suite.ts";

testLockerContract("MemoryLocker", {
  runner: { describe, test },
  create: async () => ({ locker: new MemoryLocker() }),
  deviations: ["instance-local"],
});
