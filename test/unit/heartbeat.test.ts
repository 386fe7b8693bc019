import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { assertTtl } from "../../src/contract/acquire-options.ts";
import { HeldLock } from "../../src/holding/held-lock.ts";
import type { LockOwner } from "../../src/holding/lock-owner.ts";
import { type Instant, now } from "../../src/runtime/clock.ts";
import { Expiries } from "../../src/runtime/expiries.ts";
import { Telemetry } from "../../src/runtime/telemetry.ts";
import type { Grant } from "../../src/sessions/grant.ts";
import { SessionKeepalive } from "../../src/sessions/session-keepalive.ts";
import { SmallestTtl } from "../../src/sessions/smallest-ttl.ts";

// How often a lock that refreshes itself sends a statement, counted on a clock that the test moves.

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date", "performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

const owner: LockOwner = {
  telemetry: new Telemetry({}),
  breaker: undefined,
  expiries: new Expiries(),
  assertTtl,
  forget() {},
  expired() {},
};

/** A session that answers at once, and notes when it was asked. */
class Session {
  readonly askedAt: number[] = [];
  provenAt: Instant = now();
  readonly #keepalive = new SessionKeepalive({
    speak: async () => this.#keepalive.proven(Number.POSITIVE_INFINITY, this.ask()),
    lapse() {},
    overdue() {},
  });
  readonly #kept = new SmallestTtl();

  /** The grant of a lock that has the session to itself. */
  grant(): Grant {
    return {
      fencingToken: undefined,
      lapses: false,
      goneBecause: undefined,
      grantedAt: this.provenAt,
      onGone() {},
      refresh: async () => this.ask(),
      release: async () => {},
    };
  }

  /** The grant of one of many locks on the session. */
  sharedGrant(): Grant {
    const session = this;
    const [keepalive, kept] = [this.#keepalive, this.#kept];
    let before: number | undefined;
    return Object.defineProperties(
      {
        keepProven(ttl: number | undefined): void {
          kept.change(before, ttl);
          before = ttl;
          keepalive.proveWithin(kept.value);
        },
        get keptAt() {
          return session.provenAt;
        },
      },
      Object.getOwnPropertyDescriptors(this.grant()),
    ) as Grant;
  }

  ask(): Instant {
    this.askedAt.push(performance.now());
    this.provenAt = now();
    return this.provenAt;
  }
}

const ttl = 3_000;
const facts = { key: "key", id: 1n, mode: "exclusive", ttl, autoRefresh: true } as const;
const hold = (session: Session): HeldLock => new HeldLock(facts, session.grant(), owner);
const holdShared = (session: Session, autoRefresh = true): HeldLock =>
  new HeldLock({ ...facts, autoRefresh }, session.sharedGrant(), owner);

test("a thousand sessions send once for each third of a TTL, and not all at once", async () => {
  const sessions = Array.from({ length: 1_000 }, () => new Session());
  const locks = sessions.map((session) => hold(session));
  // In steps, because otherwise each of the timers takes a turn of the real loop.
  for (let passed = 0; passed < 1.2 * ttl; passed += 10) {
    vi.advanceTimersByTime(10);
    await new Promise(setImmediate);
  }
  expect(locks.every((lock) => lock.held)).toBe(true);
  const counts = new Set(sessions.map(({ askedAt }) => askedAt.length));
  expect([...counts].filter((count) => count < 3 || count > 4)).toEqual([]);
  // Within 150 ms, a twentieth of the TTL: in all of its steps, or nearly.
  const first = sessions.map(({ askedAt }) => Math.floor((askedAt[0] as number) / 10));
  expect(new Set(first).size).toBeGreaterThan(10);
  for (const lock of locks) await lock.release();
});

test("a session sends about once for each third of a TTL while its lock is held", async () => {
  const session = new Session();
  const lock = hold(session);
  await vi.advanceTimersByTimeAsync(10 * ttl);
  expect(lock.held).toBe(true);
  expect(session.askedAt.length).toBeGreaterThanOrEqual(30);
  expect(session.askedAt.length).toBeLessThanOrEqual(36);
  await lock.release();
});

test("a session that has just sent something sends nothing more", async () => {
  const session = new Session();
  const lock = hold(session);
  for (let i = 0; i < 50; i += 1) {
    await vi.advanceTimersByTimeAsync(ttl / 5);
    await lock.refresh();
  }
  expect(session.askedAt).toHaveLength(50);
  await lock.release();
});

test("a hundred locks on one session have one timer, and ask it as often as one does", async () => {
  const session = new Session();
  const locks = Array.from({ length: 100 }, () => holdShared(session));
  expect(vi.getTimerCount()).toBe(1);
  await vi.advanceTimersByTimeAsync(10 * ttl);
  expect(locks.every((lock) => lock.held)).toBe(true);
  expect(session.askedAt.length).toBeGreaterThanOrEqual(30);
  expect(session.askedAt.length).toBeLessThanOrEqual(36);
  for (const lock of locks) await lock.release();
});

test("a lock without autoRefresh expires, whatever else its session proves", async () => {
  const session = new Session();
  const [quiet, busy] = [holdShared(session, false), holdShared(session)];
  await vi.advanceTimersByTimeAsync(2 * ttl);
  expect([quiet.held, quiet.expired, busy.held]).toEqual([false, true, true]);
  await busy.release();
});

test("a lock that its session stops refreshing has two thirds of its TTL left", async () => {
  for (let tenth = 1; tenth <= 40; tenth += 1) {
    const session = new Session();
    const [lock, other] = [holdShared(session), holdShared(session)];
    await vi.advanceTimersByTimeAsync((tenth * ttl) / 10);
    lock.stopRefreshing();
    await vi.advanceTimersByTimeAsync(0.6 * ttl);
    expect([lock.held, lock.signal.aborted], `stopped after ${tenth} tenths`).toEqual([true, false]);
    await vi.advanceTimersByTimeAsync(0.4 * ttl);
    expect(lock.expired).toBe(true);
    await other.release();
  }
});

test.each([10, 100, 3_000, 3_600_000])(
  "with a TTL of %i ms, autoRefresh asks at a third, for no longer than is left",
  async (each) => {
    for (let round = 0; round < 20; round += 1) {
      const session = new Session();
      const asked: { at: number; deadline: number }[] = [];
      const start = performance.now();
      const lock = new HeldLock(
        { ...facts, ttl: each },
        {
          ...session.grant(),
          refresh: async (_, deadline) => {
            asked.push({ at: performance.now() - start, deadline });
            return session.ask();
          },
        },
        owner,
      );
      await vi.advanceTimersByTimeAsync(each / 2);
      const [first] = asked;
      if (first === undefined) throw new Error("it never asked");
      expect(first.at).toBeLessThanOrEqual(Math.ceil(0.33 * each));
      expect(first.at + first.deadline).toBeLessThan(each);
      await lock.release();
    }
  },
);

test("no timer is left after a release", async () => {
  const locks = Array.from({ length: 10 }, () => hold(new Session()));
  for (const lock of locks) await lock.release();
  expect(vi.getTimerCount()).toBe(0);
});
