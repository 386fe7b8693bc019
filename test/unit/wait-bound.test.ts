import { afterEach, expect, test, vi } from "vitest";
import { MemoryLocker } from "../../src/index.ts";

afterEach(() => {
  vi.useRealTimers();
});

test("a wait ends when its bound has passed, not at the next try, in line as well", async () => {
  vi.useFakeTimers();
  const locker = new MemoryLocker();
  await locker.acquire("key");
  const answers: string[] = [];
  // The second caller stands in line behind the first.
  for (const wait of [40, 30]) {
    locker.acquire("key", { wait }).catch((error) => answers.push(`${error.reason} after ${wait}`));
  }
  await vi.advanceTimersByTimeAsync(29);
  expect(answers).toEqual([]);
  await vi.advanceTimersByTimeAsync(2);
  expect(answers).toEqual(["wait-timeout after 30"]);
  await vi.advanceTimersByTimeAsync(10);
  expect(answers).toEqual(["wait-timeout after 30", "wait-timeout after 40"]);
});
