import { expect, test } from "vitest";
import { TurnTaking } from "../../src/turn-taking.ts";

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

test("each lock has a count of its own, and only so many are remembered", () => {
  const turns = new TurnTaking();
  hand(turns, 16);
  expect(turns.pause(2n)).toBe(0);
  for (let id = 2n; id < 10_001n; id += 1n) turns.released(id, true);
  expect(turns.pause(1n)).toBe(10);
  turns.released(10_001n, true);
  expect(turns.pause(1n)).toBe(0);
});
