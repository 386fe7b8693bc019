import type pg from "pg";
import { expect } from "vitest";
import type { AcquireOptions, Lock, PostgresLocker, PostgresLockerOptions } from "../../src/index.ts";
import { Child, type ChildMessage } from "./child.ts";
import { createPool, databaseUrl } from "./database.ts";
import { createLocker } from "./locker.ts";
import type { TcpProxy } from "./tcp-proxy.ts";
import { until } from "./until.ts";

// Holders of a lock whose TTL the server enforces, each a process of its own, and the assertion about them: that they stopped relying on
// the lock before the next holder was granted it.

/** The reason of a lock that expired within a step: known before a timer ran, and without a message of the server. */
export const expiredUnseen = {
  held: false,
  expired: true,
  asserted: "LOCK_NOT_HELD",
  timersRun: 0,
  refreshed: "LOCK_NOT_HELD",
  released: "LOCK_NOT_HELD",
  aborted: true,
};

/** How a test file makes lockers and holders with one kind of sessions. */
export function enforcedHolders(sessions: NonNullable<PostgresLockerOptions["sessions"]>) {
  /** A locker in this process. */
  const enforced = (
    pool: pg.Pool = createPool(),
    options: Pick<PostgresLockerOptions, "sessions"> = {},
  ): PostgresLocker => createLocker({ pool, ttlEnforcement: "server", sessions, ...options });

  /** A process that is about to hold. */
  const ready = async (key: string, options: AcquireOptions, url = databaseUrl()): Promise<Child> => {
    const args = [key, JSON.stringify(options)];
    const child = Child.start("hold-enforced.mjs", { args, env: { DATABASE_URL: url, SESSIONS: sessions } });
    await child.message((message) => "ready" in message);
    return child;
  };

  /** A process that holds, and has said so. */
  const hold = async (key: string, options: AcquireOptions, url?: string): Promise<Child> => {
    const child = await ready(key, options, url);
    child.send({ acquire: true });
    await child.message((message) => "heldAt" in message);
    return child;
  };

  return { enforced, ready, hold };
}

export const isEnd = (message: object): boolean => "ended" in message;
export const isAbort = (message: object): boolean => "aborted" in message && !("ended" in message);

/** The machine's monotonic clock, in nanoseconds. */
export function instant(): bigint {
  return process.hrtime.bigint();
}

/** Tries as often as it can, so that the instant is at most a round trip or two after the lock became free. */
export async function takeOver(locker: PostgresLocker, key: string): Promise<{ lock: Lock; at: bigint }> {
  const lock = await until(() => locker.tryAcquire(key, { ttl: "1m" }), { interval: 1, deadline: 15_000 });
  return { lock, at: instant() };
}

/**
 * Waits for the holder's end behind a proxy that is frozen. The link is cut only once the holder has stopped relying on the lock by itself,
 * so that its next statement doesn't have to wait. Returns how it knew.
 */
export async function endUnheard(holder: Child, proxy: TcpProxy): Promise<ChildMessage> {
  const how = await holder.message(isAbort);
  proxy.cut();
  await holder.message(isEnd);
  return how;
}

/** The last instant at which a holder said that it holds the lock. */
export function lastHeldAt(holder: Child): bigint {
  const instants = holder.messages.flatMap(({ heldAt }) =>
    heldAt === undefined ? [] : [BigInt(String(heldAt))],
  );
  return instants.reduce((last, next) => (next > last ? next : last), 0n);
}

/** Asserts that the holder relied on the lock, for the last time before the next one had it. Call it when the holder has ended. */
export function expectOrder(holder: Child, grantedAt: bigint): void {
  expect(lastHeldAt(holder)).toBeGreaterThan(0n);
  expect(lastHeldAt(holder)).toBeLessThan(grantedAt);
}
