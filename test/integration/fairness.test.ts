import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { lockId, type PostgresLocker } from "../../src/index.ts";
import { connect, uniqueKey } from "../support/database.ts";
import { createLocker } from "../support/locker.ts";
import { sessionModes } from "../support/session-modes.ts";
import { until } from "../support/until.ts";

const always = { wait: true } as const;

describe.each(sessionModes)("with %s sessions", (sessions) => {
  test.each([
    [
      "hands a lock on",
      (locker: PostgresLocker, key: string) => locker.withLock(key, () => delay(20), always),
    ],
    [
      "hands a lock on, and tries for it in between",
      (locker: PostgresLocker, key: string) =>
        locker.withLock(
          key,
          async () => {
            await delay(20);
            await locker.tryAcquire(key);
          },
          always,
        ),
    ],
    [
      "runs one transaction after the other",
      (locker: PostgresLocker, key: string) => locker.withTransaction(key, () => delay(20), always),
    ],
  ])("a process that %s gives waiters elsewhere their turn", async (_, run) => {
    await using busy = createLocker({ sessions });
    const key = uniqueKey();
    const other = await connect();
    let turns = 0;
    let granted = false;
    // Three callers that leave the lock free for no longer than a round trip.
    const callers = [1, 2, 3].map(async () => {
      while (!granted && turns < 100) {
        await run(busy, key);
        turns += 1;
      }
    });
    await until(() => turns > 0);
    const before = turns;
    await other.query("select pg_advisory_lock($1)", [lockId(0, key).toString()]);
    granted = true;
    // The callers that had asked before it, and one whose statement crossed its own.
    expect(turns - before).toBeLessThanOrEqual(4);
    await other.end();
    await Promise.all(callers);
  });

  test("overlapping readers let in a writer that waits elsewhere", async () => {
    const key = uniqueKey();
    await using readers = createLocker({ sessions });
    await using writers = createLocker({ sessions });
    let written = false;
    let reads = 0;
    // There are three at any time, because each leaves only when another has come.
    const relay = async (): Promise<void> => {
      let lock = await readers.acquire(key, { mode: "shared", wait: true });
      while (!written && reads < 2_000) {
        reads += 1;
        const next = await readers.tryAcquire(key, { mode: "shared" });
        if (next === undefined) break;
        await lock.release();
        lock = next;
      }
      await lock.release();
      if (!written) return relay();
    };
    const relays = [1, 2, 3].map(relay);
    await until(() => reads > 10);
    await using writer = await writers.acquire(key, { wait: "15s" });
    written = true;
    await writer.release();
    await Promise.all(relays);
    expect(written).toBe(true);
    expect(reads).toBeLessThan(2_000);
  });

  test("two lockers that always want the same key both get it, again and again", async () => {
    const key = uniqueKey();
    const lockers = [1, 2].map(() => createLocker({ sessions }));
    const turns: number[] = [];
    const wants = 100;
    await Promise.all(
      lockers.flatMap((locker, which) =>
        [1, 2, 3].map(async () => {
          while (turns.filter((turn) => turn === which).length < wants) {
            await locker.withLock(key, () => void turns.push(which), { wait: true });
          }
        }),
      ),
    );
    const until100 = (which: number) =>
      turns.findIndex((_, at) => turns.slice(0, at + 1).filter((t) => t === which).length === wants);
    // When the faster locker had its hundred turns, the slower one had had some: neither waits for the other to finish.
    const first = Math.min(until100(0), until100(1));
    for (const which of [0, 1]) {
      expect(turns.slice(0, first + 1).filter((turn) => turn === which).length).toBeGreaterThanOrEqual(3);
    }
    for (const locker of lockers) await locker.close();
  });
});
