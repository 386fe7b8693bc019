import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { elapsedSince, type Instant, now } from "../../src/runtime/clock.ts";
import { Expiries, Expiring } from "../../src/runtime/expiries.ts";

// Many entries that expire, on a clock that the test moves.

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date", "performance"] });
});
afterEach(() => {
  vi.useRealTimers();
});

class Perishable extends Expiring {
  since: Instant = now();
  expiredAt: number | undefined;
  term: number;

  constructor(term: number) {
    super(term, now(), false);
    this.term = term;
  }

  override get soonest(): { ttl: number; sentAt: Instant } {
    return { ttl: this.term, sentAt: this.since };
  }

  override get left(): number {
    return this.term - elapsedSince(this.since);
  }

  override expire(): void {
    this.expiredAt = performance.now();
  }
}

function watch(expiries: Expiries, each: Perishable): void {
  const { ttl, sentAt } = each.soonest;
  expiries.watch(each, ttl, sentAt);
}

test("each entry expires after its own term, whatever the others' terms are", () => {
  const start = performance.now();
  const expiries = new Expiries();
  const all = [300, 100, 200, 100].map((term) => new Perishable(term));
  for (const each of all) watch(expiries, each);
  vi.advanceTimersByTime(99);
  expect(all.map(({ expiredAt }) => expiredAt)).toEqual([undefined, undefined, undefined, undefined]);
  vi.advanceTimersByTime(300);
  expect(all.map(({ expiredAt }) => (expiredAt ?? 0) - start)).toEqual([300, 100, 200, 100]);
});

test("a thousand entries of one term have one timer, which goes with the last one", () => {
  const expiries = new Expiries();
  const watched = Array.from({ length: 1_000 }, () => new Perishable(1_000));
  for (const each of watched) watch(expiries, each);
  expect(vi.getTimerCount()).toBe(1);
  for (const each of watched) each.leave();
  vi.advanceTimersByTime(1_000);
  expect(vi.getTimerCount()).toBe(0);
});

test("an entry that leaves, even twice, does not expire, and the others do", () => {
  const expiries = new Expiries();
  const [first, second, third] = [new Perishable(100), new Perishable(100), new Perishable(100)];
  for (const each of [first, second, third]) watch(expiries, each);
  for (const _ of [1, 2]) first.leave();
  vi.advanceTimersByTime(100);
  expect([first.expiredAt !== undefined, second.expiredAt, third.expiredAt]).toEqual([
    false,
    performance.now(),
    performance.now(),
  ]);
});

test("an entry proved in the meantime expires a term later, and delays no other", () => {
  const start = performance.now();
  const expiries = new Expiries();
  const [told, silent, other] = [new Perishable(100), new Perishable(100), new Perishable(100)];
  for (const each of [told, silent, other]) watch(expiries, each);
  vi.advanceTimersByTime(50);
  told.since = now();
  silent.since = now();
  expiries.watchAgain(told);
  vi.advanceTimersByTime(200);
  expect([told, silent, other].map(({ expiredAt }) => (expiredAt ?? 0) - start)).toEqual([150, 150, 100]);
});

test("a shorter term counts from its own beginning", () => {
  const start = performance.now();
  const expiries = new Expiries();
  const one = new Perishable(10_000);
  watch(expiries, one);
  vi.advanceTimersByTime(500);
  Object.assign(one, { term: 100, since: now() });
  expiries.watchAgain(one);
  vi.advanceTimersByTime(100);
  expect((one.expiredAt ?? 0) - start).toBe(600);
});

test("an entry with a slow answer expires before those that were asked for later", () => {
  const start = performance.now();
  const expiries = new Expiries();
  const slow = new Perishable(100);
  vi.advanceTimersByTime(40);
  const quick = new Perishable(100);
  watch(expiries, quick);
  vi.advanceTimersByTime(10);
  watch(expiries, slow);
  vi.advanceTimersByTime(200);
  expect([slow, quick].map(({ expiredAt }) => (expiredAt ?? 0) - start)).toEqual([100, 140]);
});

test("after a suspension of the machine, the wall clock counts", () => {
  const expiries = new Expiries();
  const one = new Perishable(1_000);
  watch(expiries, one);
  vi.setSystemTime(Date.now() + 900);
  vi.advanceTimersByTime(100);
  expect(one.left).toBeLessThanOrEqual(0);
});
