import { once } from "node:events";
import { describe, expect, test } from "vitest";
import type { Lock, PostgresLocker } from "../../src/index.ts";
import { createPool, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

// The sessions of elections on a locker that otherwise doesn't have the server enforce its TTLs.

describe.each(sessionModes)("with %s sessions", (sessions) => {
  /** Leads until `stop` aborts. Resolves once it leads; `ended` settles with the election. */
  async function leading(locker: PostgresLocker, key: string, stop: AbortController) {
    let lock: Lock | undefined;
    const ended = locker.elect(key, {
      signal: stop.signal,
      onElected: async (elected, { signal }) => {
        lock = elected;
        await once(signal, "abort");
      },
    });
    await until(() => lock !== undefined);
    return { lock: lock as unknown as Lock, ended };
  }

  test("a pool of two still serves the application, beside a lock and a leader", async () => {
    const pool = createPool({ max: 2 });
    await using locker = createLocker({ sessions, pool });
    await using _lock = await locker.acquire(uniqueKey(), { ttl: "1h" });
    const stop = new AbortController();
    const { ended } = await leading(locker, uniqueKey(), stop);
    expect((await pool.query("select 1 as one")).rows).toEqual([{ one: 1 }]);
    stop.abort();
    await ended;
  });

  test("they are counted, limited and closed together with the others of the locker", async () => {
    const key = uniqueKey();
    await using elsewhere = createLocker({ sessions });
    await using locker = createLocker({ sessions, maxWaitingSessions: 1 });
    const held = await elsewhere.acquire(key);
    const stop = new AbortController();
    const standing = leading(locker, key, stop);
    await until(async () => (await elsewhere.inspect(key)).waiters.length === 1);
    // The session of its try goes back after a while. Then the only place is taken, and others try again and again.
    await until(() => locker.stats().sessions === 1);
    const other = await elsewhere.acquire(uniqueKey());
    const waiting = locker.acquire(other.key, { wait: true });
    await other.release();
    await (await waiting).release();
    await held.release();
    const { lock, ended } = await standing;
    expect(lock.held).toBe(true);
    await locker.close();
    await ended;
    expect(lock.held).toBe(false);
    expect(locker.stats()).toMatchObject({ locks: 0, sessions: 0 });
  });

  test("an idle session of another kind leaves its place to a candidate, and the reverse", async () => {
    await using elsewhere = createLocker({ sessions });
    await using locker = createLocker({ sessions, maxWaitingSessions: 1 });
    const pids = new Map<string, unknown>();
    for (const how of ["acquire", "elect", "acquire"] as const) {
      const key = uniqueKey(how);
      const held = await elsewhere.acquire(key);
      const stop = new AbortController();
      const taken =
        how === "acquire"
          ? locker.acquire(key, { wait: true })
          : leading(locker, key, stop).then(({ ended }) => ended);
      await until(async () => (await elsewhere.inspect(key)).waiters.length === 1);
      await held.release();
      await until(async () => (await locker.inspect(key)).heldHere);
      const [holder] = (await locker.inspect(key)).holders;
      expect([...pids.values()]).not.toContain(holder?.pid);
      pids.set(key, holder?.pid);
      stop.abort();
      await (await taken)?.release();
    }
    expect(pids.size).toBe(3);
  });
});
