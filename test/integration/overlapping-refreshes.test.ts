import { describe, expect, test } from "vitest";
import { connect, createPool, databaseUrl, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { TcpProxy } from "../support/tcp-proxy.ts";
import { until } from "../support/until.ts";

// Overlapping refreshes of one lock, with TTLs that the server enforces. Whatever their order and number, the holder stops relying on the
// lock before the server frees it.

function block(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

describe.each(["dedicated", "shared"] as const)("%s sessions", (sessions) => {
  const enforced = { sessions, ttlEnforcement: "server" } as const;

  test.each([
    ["the longer one is sent first", ["60s", "1s"], 0],
    ["a third of three", ["60s", "40s", "1s"], 1],
    ["one among longer ones", ["60s", "1s", "50s"], 0],
    ["the same shorter one twice", ["1s", "1s", "60s"], 0],
  ] as const)(
    "a shorter refresh under way counts, whatever else is answered: %s",
    async (_, ttls, awaited) => {
      await using proxy = await TcpProxy.start(databaseUrl());
      await using locker = createLocker({ pool: createPool({ connectionString: proxy.url }), ...enforced });
      const lock = await locker.acquire(uniqueKey(), { ttl: "60s" });
      const refreshes = ttls.map((ttl) => lock.refresh(ttl));
      await refreshes[awaited];
      // From here on the holder hears nothing: every refresh that was sent may be in force.
      proxy.freeze({ direction: "toClient" });
      const settled = Promise.allSettled(refreshes);
      block(1_100);
      expect(lock.held).toBe(false);
      expect(() => lock.assertHeld()).toThrow();
      proxy.thaw();
      await settled;
      // A lock that was reported as over stays over.
      expect(lock.held).toBe(false);
      await lock.release().catch(() => {});
    },
  );

  test("after a blocked event loop the lock isn't held if another process has it", async () => {
    await using locker = createLocker({ ...enforced });
    const lock = await locker.acquire(uniqueKey(), { ttl: "60s" });
    const [first, second] = [lock.refresh("60s"), lock.refresh("300ms")];
    await first;
    block(1_000);
    expect([lock.held, lock.expired]).toEqual([false, true]);
    await second.catch(() => {});
    const other = await connect();
    await until(async () => {
      const { rows } = await other.query("select pg_try_advisory_lock($1::int8) as got", [
        lock.id.toString(),
      ]);
      return rows[0].got;
    });
    expect(lock.held).toBe(false);
    await lock.release().catch(() => {});
  });

  test("of a hundred in any order, the last one that was sent is in force", async () => {
    await using locker = createLocker({ ...enforced });
    const lock = await locker.acquire(uniqueKey(), { ttl: "60s" });
    const ttls = Array.from({ length: 100 }, (_, at) => 20_000 + ((at * 7_919) % 40_000));
    await Promise.all(ttls.map((ttl) => lock.refresh(ttl)));
    expect([lock.held, lock.ttl]).toEqual([true, ttls.at(-1)]);
    await lock.release();
  });

  test("if no answer comes, the lock ends by the shortest of the refreshes", async () => {
    await using proxy = await TcpProxy.start(databaseUrl());
    await using locker = createLocker({ pool: createPool({ connectionString: proxy.url }), ...enforced });
    const lock = await locker.acquire(uniqueKey(), { ttl: "60s" });
    proxy.freeze();
    const start = performance.now();
    const refreshes = [lock.refresh("60s"), lock.refresh("500ms"), lock.refresh("60s")];
    const settled = Promise.allSettled(refreshes);
    await until(() => !lock.held, { deadline: 3_000 });
    expect(performance.now() - start).toBeLessThan(2_000);
    proxy.cut();
    proxy.thaw();
    expect((await settled).map(({ status }) => status)).toEqual(["rejected", "rejected", "rejected"]);
    expect(lock.signal.aborted).toBe(true);
    await lock.release().catch(() => {});
  });

  test("shortening during a heartbeat leaves the shorter TTL, and refreshing goes on", async () => {
    await using locker = createLocker({ ...enforced });
    const lock = await locker.acquire(uniqueKey(), { ttl: "60s", autoRefresh: true });
    await Promise.all([lock.refresh(), lock.refresh("400ms"), lock.refresh()]);
    // The last refresh was sent with the TTL at the time of the call.
    await lock.refresh("400ms");
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    expect([lock.held, lock.ttl]).toEqual([true, 400]);
    await lock.release();
  });

  test("a refresh under way at the release, or aborted, changes nothing", async () => {
    await using locker = createLocker({ ...enforced });
    const lock = await locker.acquire(uniqueKey(), { ttl: "60s" });
    await expect(lock.refresh("1s", { signal: AbortSignal.abort(new Error("no patience")) })).rejects.toThrow(
      "no patience",
    );
    expect([lock.held, lock.ttl]).toEqual([true, 60_000]);
    const [refreshed, released] = await Promise.allSettled([lock.refresh("50s"), lock.release()]);
    expect(released.status).toBe("fulfilled");
    expect(refreshed.status).toBe("rejected");
    expect(lock.held).toBe(false);
  });
});
