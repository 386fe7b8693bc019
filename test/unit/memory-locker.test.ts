import { afterEach, describe, expect, test, vi } from "vitest";
import { InvalidConfigError, InvalidTtlError, MemoryLocker } from "../../src/index.ts";
import { testLockerContract } from "../../src/testing/contract/contract-suite.ts";

for (const ttlEnforcement of ["client", "server"] as const) {
  testLockerContract(`MemoryLocker, TTL enforced by the ${ttlEnforcement}`, {
    runner: { describe, test },
    // No server is asked, and so nothing takes long but what has to.
    create: async () => ({
      locker: new MemoryLocker({ ttlEnforcement }),
      durations: { brief: 30, spare: 500 },
    }),
    deviations: ttlEnforcement === "client" ? ["instance-local", "lapsed-lock-stays"] : ["instance-local"],
    concurrent: true,
  });
}

describe("with a clock of the test's", () => {
  afterEach(() => {
    vi.useRealTimers();
  });

  test("a lock whose TTL has passed keeps others out until its holder releases it", async () => {
    vi.useFakeTimers();
    const locker = new MemoryLocker();
    const lock = await locker.acquire("key", { ttl: "10s" });
    await vi.advanceTimersByTimeAsync(60_000);
    expect([lock.held, lock.expired]).toEqual([false, true]);
    expect(await locker.tryAcquire("key")).toBeUndefined();
    await lock[Symbol.asyncDispose]();
    await (await locker.acquire("key")).release();
  });
});

test("a TTL that a server couldn't enforce is refused if one is to", async () => {
  const ttl = 2 ** 31;
  await expect(new MemoryLocker({ ttlEnforcement: "server" }).acquire("key", { ttl })).rejects.toThrow(
    InvalidTtlError,
  );
  expect((await new MemoryLocker().acquire("key", { ttl })).ttl).toBe(ttl);
});

test("an enforcement that there is not is refused", () => {
  expect(() => new MemoryLocker({ ttlEnforcement: "none" as "server" })).toThrow(InvalidConfigError);
});
