import { describe, expect, test } from "vitest";
import { type Locker, type Logger, MemoryLocker } from "../../src/index.ts";
import { uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { until } from "../support/until.ts";

type Enforced = { readonly ttlEnforcement: "client" | "server"; readonly logger: Logger };

const kinds: readonly (readonly [string, (options: Enforced) => Locker])[] = [
  ["shared sessions", (options) => createLocker({ sessions: "shared", ...options })],
  ["a session each", (options) => createLocker({ sessions: "dedicated", ...options })],
  ["memory", (options) => new MemoryLocker(options)],
];

describe.each(kinds)("a lock that has expired (%s)", (_, create) => {
  const warned = async (ttlEnforcement: Enforced["ttlEnforcement"]) => {
    const lines: string[] = [];
    const warn = (_facts: object, message: string) => {
      lines.push(message);
      throw new Error("the logger's own");
    };
    const logger: Logger = { debug() {}, info() {}, warn, error() {} };
    const locker = create({ ttlEnforcement, logger });
    // A locker's first lock takes longest: a busy machine may not connect within a short TTL.
    await (await locker.acquire(uniqueKey())).release();
    const lock = await locker.acquire(uniqueKey(), { ttl: 200 });
    await until(() => lines.length > 0);
    expect([lock.held, lock.expired, lock.signal.aborted]).toEqual([false, true, true]);
    return { locker, lock, lines };
  };

  test("and is kept causes one warning, which says so and what to do", async () => {
    const { locker, lock, lines } = await warned("client");
    await using _ = locker;
    expect(await locker.tryAcquire(lock.key)).toBeUndefined();
    await expect(lock.refresh()).rejects.toThrow("its TTL passed");
    await expect(lock.release()).rejects.toThrow("its TTL passed");
    await (await locker.acquire(lock.key)).release();
    expect(lines).toEqual([
      `${lock.signal.reason.message}; it still keeps others out, until release(), refresh() or close(): only ttlEnforcement "server" ends it`,
    ]);
  });

  test("and is not kept causes a warning of the expiry alone", async () => {
    const { locker, lock, lines } = await warned("server");
    await using _ = locker;
    await (await locker.acquire(lock.key, { wait: "10s" })).release();
    expect(lines).toEqual([lock.signal.reason.message]);
  });
});

test("a lock that is released as soon as it has expired isn't reported as kept", async () => {
  const lines: string[] = [];
  const logger: Logger = {
    debug() {},
    info() {},
    warn: (_, message) => void lines.push(message),
    error() {},
  };
  const locker = new MemoryLocker({ logger });
  const lock = await locker.acquire("key", { ttl: 20 });
  const end = performance.now() + 30;
  while (performance.now() < end); // So that no timer tells it before.
  await expect(lock.release()).rejects.toThrow("its TTL passed");
  await until(() => lines.length > 0);
  expect(lines).toEqual([lock.signal.reason.message]);
});
