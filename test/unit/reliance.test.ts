import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { now } from "../../src/runtime/clock.ts";
import { Reliance } from "../../src/runtime/reliance.ts";

// until = sent + TTL − margin; if the server enforces TTLs, the smallest of all that it may have applied. On a clock that the test moves.

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["Date", "performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

const relianceFor = (ttl: number, isEnforced: boolean): Reliance => new Reliance(ttl, now(), isEnforced);
const pass = (milliseconds: number): void => void vi.advanceTimersByTime(milliseconds);

describe("alone", () => {
  test.each([
    { enforced: true, end: 998 },
    { enforced: false, end: 1_000 },
  ])("a TTL ends after the sending, a margin early if enforced: $enforced", ({ enforced, end }) => {
    const reliance = relianceFor(1_000, enforced);
    expect(reliance.left).toBe(end);
    pass(end - 1);
    expect(reliance.left).toBe(1);
    pass(1);
    expect(reliance.left).toBe(0);
  });

  test("a TTL without an end has none", () => {
    const reliance = relianceFor(Number.POSITIVE_INFINITY, true);
    pass(1e9);
    expect(reliance.left).toBe(Number.POSITIVE_INFINITY);
  });

  test("a wall clock set back adds nothing, and one set forward takes away", () => {
    const reliance = relianceFor(1_000, false);
    vi.setSystemTime(Date.now() - 60_000);
    expect(reliance.left).toBe(1_000);
    // The machine was suspended: the monotonic clock stood still.
    vi.setSystemTime(Date.now() + 60_900);
    expect(reliance.left).toBe(100);
  });
});

describe("one refresh", () => {
  test("counts from its sending, not from its answer", () => {
    const reliance = relianceFor(1_000, true);
    pass(100);
    const asked = reliance.askFor(1_000);
    pass(300);
    reliance.answered(asked);
    expect(reliance.left).toBe(698);
  });

  test("counts from when it was really sent, if it had to queue", () => {
    const reliance = relianceFor(1_000, true);
    const asked = reliance.askFor(1_000);
    pass(200);
    const sentAt = now();
    pass(100);
    reliance.answered(asked, sentAt);
    expect([reliance.left, reliance.provenAt]).toEqual([898, sentAt]);
  });

  test("for less may be in force once sent, if the server enforces it", () => {
    const [enforced, trusted] = [relianceFor(60_000, true), relianceFor(60_000, false)];
    for (const reliance of [enforced, trusted]) reliance.askFor(1_000);
    expect([enforced.left, trusted.left]).toEqual([998, 60_000]);
    pass(2_000);
    expect([enforced.left, trusted.left]).toEqual([-1_002, 58_000]);
    expect([enforced.ttl, trusted.ttl]).toEqual([60_000, 60_000]);
  });

  test("that asks for more counts only when it is answered", () => {
    const reliance = relianceFor(1_000, true);
    const asked = reliance.askFor(60_000);
    expect(reliance.left).toBe(998);
    reliance.answered(asked);
    expect([reliance.left, reliance.ttl]).toEqual([59_939, 60_000]);
  });

  test("that has changed nothing is forgotten", () => {
    const reliance = relianceFor(60_000, true);
    reliance.notInForce(reliance.askFor(1_000));
    expect(reliance.left).toBe(59_939);
  });

  test("whose answer is looked at twice counts once", () => {
    const reliance = relianceFor(60_000, true);
    const [first, second] = [reliance.askFor(60_000), reliance.askFor(2_000)];
    reliance.answered(first);
    reliance.answered(first);
    reliance.notInForce(first);
    expect(reliance.left).toBe(1_997);
    reliance.answered(second);
    expect([reliance.left, reliance.ttl]).toEqual([1_997, 2_000]);
  });
});

describe("refreshes that overlap", () => {
  test("a longer one's answer takes nothing from a shorter one sent after it", () => {
    const reliance = relianceFor(60_000, true);
    const [longer, shorter] = [reliance.askFor(60_000), reliance.askFor(1_000)];
    reliance.answered(longer);
    expect(reliance.left).toBe(998);
    pass(500);
    reliance.answered(shorter);
    expect([reliance.left, reliance.ttl]).toEqual([498, 1_000]);
  });

  test("answers that are looked at in another order count in that of the sending", () => {
    const reliance = relianceFor(60_000, true);
    const shorter = reliance.askFor(1_000);
    pass(100);
    const longer = reliance.askFor(30_000);
    reliance.answered(longer);
    // Until its own answer, or for ever: that can only end the reliance too early.
    expect(reliance.left).toBe(898);
    reliance.answered(shorter);
    expect([reliance.left, reliance.ttl]).toEqual([29_969, 30_000]);
  });

  test("the smallest of several rules, and each leaves with its own answer", () => {
    const reliance = relianceFor(60_000, true);
    const asked = [5_000, 1_000, 3_000, 60_000].map((ttl) => reliance.askFor(ttl));
    const left = asked.map((each) => {
      reliance.answered(each);
      return reliance.left;
    });
    expect(left).toEqual([998, 998, 2_996, 59_939]);
  });

  test("whatever the order and number, it never ends later than the server does", () => {
    const random = generator(20261126);
    for (let round = 0; round < 2_000; round += 1) {
      const start = performance.now();
      const reliance = relianceFor(10_000, true);
      // What the server does: it executes the statements one after the other, each some time after it was sent.
      let endsAt = start + 10_000;
      let carriedOutAt = start;
      const underWay: { asked: ReturnType<Reliance["askFor"]>; ttl: number; at: number }[] = [];
      const answers: ReturnType<Reliance["askFor"]>[] = [];
      for (let step = 0; step < 20; step += 1) {
        pass(Math.floor(random() * 50));
        const now = performance.now();
        const what = random();
        if (what < 0.4) {
          const ttl = 100 + Math.floor(random() * 10_000);
          underWay.push({ asked: reliance.askFor(ttl), ttl, at: now });
        } else if (what < 0.7) {
          const next = underWay.shift();
          if (next !== undefined) {
            carriedOutAt = Math.max(carriedOutAt, next.at, now);
            endsAt = carriedOutAt + next.ttl;
            answers.push(next.asked);
          }
        } else if (answers.length > 0) {
          // In any order, because answers are handled when the promises' continuations run.
          const [answer] = answers.splice(Math.floor(random() * answers.length), 1);
          if (answer !== undefined) reliance.answered(answer);
        }
        expect(performance.now() + reliance.left).toBeLessThanOrEqual(endsAt);
      }
    }
  });
});

describe("another proof", () => {
  test("moves the end, with the same TTL", () => {
    const reliance = relianceFor(1_000, true);
    pass(400);
    const provenAt = now();
    pass(100);
    reliance.provedAgain(provenAt);
    expect([reliance.left, reliance.ttl]).toEqual([898, 1_000]);
  });

  test("that is older changes nothing", () => {
    const older = now();
    pass(300);
    const reliance = relianceFor(1_000, true);
    reliance.provedAgain(older);
    expect(reliance.left).toBe(998);
  });

  test("takes nothing away from a shorter refresh under way", () => {
    const reliance = relianceFor(60_000, true);
    reliance.askFor(1_000);
    pass(500);
    reliance.provedAgain(now());
    expect(reliance.left).toBe(498);
  });
});

/** Numbers from 0 to 1, the same in each run (mulberry32). */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}
