import { expect, test } from "vitest";
// biome-ignore lint/correctness/useImportExtensions: it is the JavaScript that is imported, beside its declarations
import { corruptionsOf, type Line, overlapsOf, takeoversOf, turnsOf } from "../../demo/judge.mjs";

/** A whole turn that begins at `start` and takes `length` milliseconds. */
function turn(worker: number, start: number, length: number, counter: number): Line[] {
  const who = { worker, pid: 100 + worker };
  return [
    { ...who, at: start, what: "acquired" },
    { ...who, at: start + 1, what: "read", counter },
    { ...who, at: start + length - 1, what: "wrote", counter: counter + 1 },
    { ...who, at: start + length, what: "releasing" },
  ];
}

test("turns one after the other overlap nowhere, and the file is sound", () => {
  const turns = turnsOf([...turn(1, 0, 100, 0), ...turn(2, 100, 50, 1)], []);
  expect(turns).toHaveLength(2);
  expect(overlapsOf(turns)).toEqual([]);
  expect(corruptionsOf(turns, 2)).toEqual([]);
});

test("two that hold at once are seen, with the time they overlapped", () => {
  const turns = turnsOf([...turn(1, 0, 100, 0), ...turn(2, 90, 100, 0)], []);
  expect(overlapsOf(turns)).toMatchObject([
    { first: { worker: 1 }, second: { worker: 2 }, milliseconds: 10 },
  ]);
});

test("a turn inside a longer one is seen, also with a third between their beginnings", () => {
  const turns = turnsOf([...turn(1, 0, 100, 0), ...turn(2, 10, 5, 0), ...turn(3, 50, 10, 1)], []);
  expect(overlapsOf(turns).map(({ first, second }) => [first.worker, second.worker])).toEqual([
    [1, 2],
    [1, 3],
  ]);
});

test("a killed holder held until the kill, and the next one takes over from it", () => {
  const [acquired, read] = turn(1, 0, 100, 0) as [Line, Line];
  const kills = [{ pid: 101, at: 40 }];
  const after = turnsOf([acquired, read, ...turn(2, 45, 50, 0)], kills);
  expect(overlapsOf(after)).toEqual([]);
  expect(takeoversOf(after)).toMatchObject([{ killed: { worker: 1 }, next: { worker: 2 }, milliseconds: 5 }]);
  expect(corruptionsOf(after, 1)).toEqual([]);
  const before = turnsOf([acquired, read, ...turn(2, 39, 50, 0)], kills);
  expect(overlapsOf(before)).toHaveLength(1);
});

test("a lost addition is a corruption, and so is a wrong count at the end", () => {
  const turns = turnsOf([...turn(1, 0, 10, 0), ...turn(2, 20, 10, 0)], []);
  expect(corruptionsOf(turns, 1)).toEqual(["worker 2 read 0, where 1 had been left"]);
  expect(corruptionsOf(turnsOf(turn(1, 0, 10, 0), []), 7)).toEqual(["the counter is 7, and should be 1"]);
});
