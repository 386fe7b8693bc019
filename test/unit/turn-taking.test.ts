import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { TurnTaking } from "../../src/waiting/turn-taking.ts";

const hand = (turns: TurnTaking, times: number, othersWait = true): number[] =>
  Array.from({ length: times }, () => {
    const pause = turns.pause(1n);
    turns.released(1n, othersWait);
    return pause;
  });

test("a process has a lock sixteen times in a row while others wait, then pauses", () => {
  expect(hand(new TurnTaking(), 17)).toEqual([...Array(16).fill(0), 10]);
});

test("the pause grows as long as nobody makes use of it, to a second", () => {
  const pauses = hand(new TurnTaking(), 16 * 10 + 1).filter((pause) => pause > 0);
  expect(pauses).toEqual([10, 20, 40, 80, 160, 320, 640, 1_000, 1_000, 1_000]);
});

test("where nobody else waits there is no pause", () => {
  expect(hand(new TurnTaking(), 100, false)).toEqual(Array(100).fill(0));
});

test("the count begins anew once somebody else had the lock, and once nobody else waits any more", () => {
  const turns = new TurnTaking();
  hand(turns, 16);
  turns.lost(1n);
  expect(turns.pause(1n)).toBe(0);
  hand(turns, 16);
  turns.released(1n, false);
  expect(hand(turns, 16)).toEqual(Array(16).fill(0));
});

const join = (turns: TurnTaking, times: number, othersWait = true): boolean[] =>
  Array.from({ length: times }, () => {
    turns.joined(1n, othersWait);
    return turns.isShut(1n);
  });

describe("readers that are let in beside others", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  test("are sixteen while somebody elsewhere waits; then no more are, until all have left", () => {
    const turns = new TurnTaking();
    expect(join(turns, 16)).toEqual([...Array(15).fill(false), true]);
    turns.released(1n, true);
    expect(turns.isShut(1n)).toBe(false);
    expect(turns.pause(1n)).toBe(10);
  });

  test("are any number where nobody waits, and again when nobody waits any more", () => {
    const turns = new TurnTaking();
    expect(join(turns, 100, false)).not.toContain(true);
    join(turns, 16);
    join(turns, 1, false);
    expect(turns.isShut(1n)).toBe(false);
    expect(join(turns, 15)).not.toContain(true);
  });

  test("are one after a second, to see whether somebody still waits, and then after ever longer", () => {
    const turns = new TurnTaking();
    join(turns, 16);
    for (const lasts of [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]) {
      vi.advanceTimersByTime(lasts - 1);
      expect(turns.isShut(1n)).toBe(true);
      vi.advanceTimersByTime(1);
      expect(turns.isShut(1n)).toBe(false);
      expect(join(turns, 1)).toEqual([true]);
    }
  });
});

test("each lock has a count of its own, and only so many are remembered", () => {
  const turns = new TurnTaking();
  hand(turns, 16);
  expect(turns.pause(2n)).toBe(0);
  for (let id = 2n; id < 10_001n; id += 1n) turns.released(id, true);
  expect(turns.pause(1n)).toBe(10);
  turns.released(10_001n, true);
  expect(turns.pause(1n)).toBe(0);
});
