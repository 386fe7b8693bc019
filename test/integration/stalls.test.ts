import { expect, test } from "vitest";
import { within } from "../../src/runtime/clock.ts";
import { Child } from "../support/child.ts";
import { advisoryLocks, connect, createPool, databaseUrl, uniqueKey } from "../support/database.ts";
import { isOverPostgresJs } from "../support/driver.ts";
import { createLocker } from "../support/locker.ts";

// A process that stands still for longer than the deadline of a statement finds its timers due before it has read its sockets. What arrived
// in that time counts all the same. The TTLs here are ten minutes.

/** Milliseconds: longer than the deadline of a statement, and than the default limit of the wait for a connection. */
const stall = 5_300;

function block(milliseconds: number): void {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, milliseconds);
}

const keys = (count: number): string[] => Array.from({ length: count }, () => uniqueKey());

const stalled = [
  ["shared", "server", 500],
  ["shared", "client", 500],
  ["dedicated", "server", 8],
] as const;

test.each(isOverPostgresJs ? stalled.slice(0, 1) : stalled)(
  "a blocked event loop loses nothing: %s sessions, TTLs of the %s",
  async (sessions, ttlEnforcement, count) => {
    const options = { sessions, ttlEnforcement, connWaitTimeout: "5s" } as const;
    const pool = createPool({ max: 40 });
    await using locker = createLocker({ pool, ...options });
    await using unconnected = createLocker({ ...options });
    const take = (key: string) => locker.acquire(key, { ttl: "10m", autoRefresh: true });
    const [held, leaving] = await Promise.all([
      Promise.all(keys(count).map(take)),
      Promise.all(keys(8).map(take)),
    ]);
    const [first] = held;
    // All of them are sent in this step, or will be when the loop gets to it.
    const underWay = [
      locker.acquire(uniqueKey(), { ttl: "10m" }),
      locker.acquire(uniqueKey(), { ttl: "10m", fencing: true }),
      locker.tryAcquire(uniqueKey(), { ttl: "10m", mode: "shared" }),
      locker.acquireAll(keys(3), { ttl: "10m" }),
      first?.refresh("9m"),
      ...leaving.map((lock) => lock.release()),
      locker.ping(),
      unconnected.acquire(uniqueKey(), { ttl: "10m" }),
    ];
    block(stall);
    const outcomes = await Promise.allSettled(underWay);
    expect(outcomes.filter(({ status }) => status === "rejected")).toEqual([]);
    expect(held.filter((lock) => !lock.held || lock.signal.aborted)).toEqual([]);
    expect(first?.ttl).toBe(540_000);
    expect(await advisoryLocks()).toHaveLength(count + 7);
  },
);

test("a connection half made when the event loop stands still is finished later", async () => {
  for (const pause of [0, 1, 3, 6]) {
    await using locker = createLocker({ connWaitTimeout: "1s" });
    const acquiring = locker.acquire(uniqueKey(), { ttl: "10m" });
    await new Promise((resolve) => setTimeout(resolve, pause));
    block(1_300);
    await (await acquiring).release();
  }
});

test("a process stopped with statements under way keeps all its locks, none lost", async () => {
  await using child = Child.start("stalls.mjs", { env: { DATABASE_URL: databaseUrl() } });
  await child.message((message) => "busy" in message);
  child.signal("SIGSTOP");
  await new Promise((resolve) => setTimeout(resolve, stall + 700));
  child.signal("SIGCONT");
  const told = await child.message((message) => "held" in message, { deadline: 40_000 });
  expect(told).toMatchObject({ held: 500, aborted: 0, failed: [] });
  expect(await child.exited).toEqual({ code: 0, signal: null });
}, 60_000);

test("at a deadline, what has arrived while the event loop stood still is in time", async () => {
  const client = await connect();
  const answer = client.query("select pg_sleep(0.05)");
  // Sent before the loop stands still.
  await new Promise(setImmediate);
  const inTime = within(200, answer);
  block(500);
  await expect(inTime).resolves.toMatchObject({ rowCount: 1 });
});
