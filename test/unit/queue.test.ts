import { describe, expect, test } from "vitest";
import { Queue } from "../../src/runtime/queue.ts";

function filled(...values: readonly number[]): {
  queue: Queue<number>;
  places: ReturnType<Queue<number>["push"]>[];
} {
  const queue = new Queue<number>();
  return { queue, places: values.map((value) => queue.push(value)) };
}

describe("a queue", () => {
  test("that is empty has no first, and nothing in it", () => {
    const { queue } = filled();
    expect([queue.first, queue.size, [...queue]]).toEqual([undefined, 0, []]);
  });

  test("keeps the order of arrival", () => {
    const { queue } = filled(3, 1, 2);
    expect([queue.first, queue.size, [...queue]]).toEqual([3, 3, [3, 1, 2]]);
  });

  test.each([
    [0, [2, 3, 4]],
    [1, [1, 3, 4]],
    [3, [1, 2, 3]],
  ] as const)("lets anybody leave, from place %i", (at, left) => {
    const { queue, places } = filled(1, 2, 3, 4);
    const place = places[at];
    if (place !== undefined) queue.remove(place);
    expect([queue.first, queue.size, [...queue]]).toEqual([left[0], 3, left]);
  });

  test("does nothing for one who has left before", () => {
    const { queue, places } = filled(1, 2);
    for (const place of [places[0], places[0], places[0]]) if (place !== undefined) queue.remove(place);
    queue.push(3);
    if (places[0] !== undefined) queue.remove(places[0]);
    expect([queue.size, [...queue]]).toEqual([2, [2, 3]]);
  });

  test("can be emptied and filled again", () => {
    const { queue, places } = filled(1, 2, 3);
    for (const place of places.reverse()) queue.remove(place);
    expect([queue.first, queue.size]).toEqual([undefined, 0]);
    queue.push(4);
    expect([queue.first, [...queue]]).toEqual([4, [4]]);
  });

  test("a value that is undefined is a value", () => {
    const queue = new Queue<undefined>();
    queue.push(undefined);
    expect([queue.size, [...queue]]).toEqual([1, [undefined]]);
  });

  test("passes over those who leave while somebody goes through it", () => {
    const { queue, places } = filled(1, 2, 3, 4);
    const seen: number[] = [];
    for (const value of queue) {
      seen.push(value);
      if (value === 1 && places[1] !== undefined) queue.remove(places[1]);
    }
    expect(seen).toEqual([1, 3, 4]);
  });

  test("goes on, and comes to its end, if the very one that was reached leaves", () => {
    const { queue, places } = filled(1, 2, 3);
    const seen: number[] = [];
    for (const value of queue) {
      seen.push(value);
      const place = places[value - 1];
      if (place !== undefined) queue.remove(place);
    }
    expect([seen, queue.size]).toEqual([[1, 2, 3], 0]);
  });

  test("of 200,000 takes no longer for each at its front than one of 2,000", () => {
    const perElement = (count: number): number => {
      const { queue, places } = filled(...Array.from({ length: 1_000 }, (_, at) => at));
      for (let more = 1_000; more < count; more += 1) places.push(queue.push(more));
      const start = performance.now();
      for (const place of places) {
        if (queue.first !== place.value) throw new Error("not in order");
        queue.remove(place);
      }
      return (performance.now() - start) / count;
    };
    perElement(20_000);
    // A Set takes hundreds of times as long.
    expect(perElement(200_000)).toBeLessThan(Math.max(perElement(2_000), 0.001) * 40);
  });
});
