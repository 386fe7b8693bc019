import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Alarm, elapsedSince, now, within, withinTtl } from "../../src/runtime/clock.ts";

afterEach(() => {
  vi.restoreAllMocks();
  vi.useRealTimers();
});

describe("elapsedSince", () => {
  let monotonic = 1_000;
  let wall = 1_700_000_000_000;

  beforeEach(() => {
    monotonic = 1_000;
    wall = 1_700_000_000_000;
    vi.spyOn(performance, "now").mockImplementation(() => monotonic);
    vi.spyOn(Date, "now").mockImplementation(() => wall);
  });

  test("is the wall clock's if the monotonic one stood still", () => {
    const start = now();
    monotonic += 5;
    wall += 60_000;
    expect(elapsedSince(start)).toBe(60_000);
  });

  test("is the monotonic clock's if the wall clock was set back", () => {
    const start = now();
    monotonic += 30_000;
    wall -= 3_600_000;
    expect(elapsedSince(start)).toBe(30_000);
  });
});

describe("an alarm", () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance", "Date"] });
  });

  function alarmAt(moment: { at: number }, ring: () => void): Alarm<undefined> {
    return new Alarm(undefined, () => moment.at - performance.now(), ring);
  }

  test("rings when its moment is reached, once", () => {
    const ring = vi.fn();
    alarmAt({ at: performance.now() + 1_000 }, ring);
    vi.advanceTimersByTime(999);
    expect(ring).not.toHaveBeenCalled();
    vi.advanceTimersByTime(5_000);
    expect(ring).toHaveBeenCalledTimes(1);
  });

  test("does not ring at once for a moment more than 2^31 ms away, but when it comes", () => {
    const thirtyDays = 30 * 86_400_000;
    const ring = vi.fn();
    alarmAt({ at: performance.now() + thirtyDays }, ring);
    const delays = vi.getTimerCount();
    expect(delays).toBe(1);
    vi.advanceTimersByTime(2 ** 31);
    expect(ring).not.toHaveBeenCalled();
    vi.advanceTimersByTime(thirtyDays - 2 ** 31 + 1);
    expect(ring).toHaveBeenCalledTimes(1);
  });

  test("asks Node for no timer that it would fire at once", () => {
    const set = vi.spyOn(globalThis, "setTimeout");
    alarmAt({ at: performance.now() + 2 ** 40 }, () => {}).stop();
    expect(set.mock.calls.map(([, wait]) => wait)).toEqual([2 ** 31 - 1]);
  });

  test("whose moment moved later rings then, without a reset", () => {
    const moment = { at: performance.now() + 1_000 };
    const ring = vi.fn();
    alarmAt(moment, ring);
    vi.advanceTimersByTime(500);
    moment.at += 1_000;
    vi.advanceTimersByTime(1_000);
    expect(ring).not.toHaveBeenCalled();
    vi.advanceTimersByTime(501);
    expect(ring).toHaveBeenCalledTimes(1);
  });

  test("whose moment moved earlier rings then, after a reset", () => {
    const moment = { at: performance.now() + 60_000 };
    const ring = vi.fn();
    const alarm = alarmAt(moment, ring);
    moment.at = performance.now() + 100;
    alarm.reset();
    vi.advanceTimersByTime(101);
    expect(ring).toHaveBeenCalledTimes(1);
    expect(vi.getTimerCount()).toBe(0);
  });

  test("that is stopped never rings, and leaves no timer", () => {
    const ring = vi.fn();
    alarmAt({ at: performance.now() + 10 }, ring).stop();
    expect(vi.getTimerCount()).toBe(0);
    vi.advanceTimersByTime(1_000);
    expect(ring).not.toHaveBeenCalled();
  });
});

test("an alarm does not keep the process alive", () => {
  const set = vi.spyOn(globalThis, "setTimeout");
  const alarm = new Alarm(
    undefined,
    () => 60_000,
    () => {},
  );
  const timer = set.mock.results[0]?.value as NodeJS.Timeout;
  expect(timer.hasRef()).toBe(false);
  alarm.stop();
});

describe("a wait without an answer", () => {
  const never = new Promise<never>(() => {});

  test.each([
    [0.25, "no answer within 0.25 ms"],
    [1.5, "no answer within 1.5 ms"],
    [20.4, "no answer within 20 ms"],
  ])("says how long it was: %f ms", async (milliseconds, message) => {
    await expect(within(milliseconds, never)).rejects.toThrow(new Error(message));
  });

  test("says that its TTL had passed before", async () => {
    const late = withinTtl(() => -3, never);
    await expect(late).rejects.toThrow(new Error("no answer before the TTL had passed"));
  });
});

describe("a wait for an answer, in a process that stands still for longer than it may take", () => {
  const stall = (milliseconds: number): void => {
    const end = performance.now() + milliseconds;
    while (performance.now() < end);
  };
  /** The answer of a socket, which is read in the phase after the timers. */
  const answered = (): Promise<string> =>
    new Promise((resolve) => {
      setImmediate(() => setTimeout(() => resolve("an answer"), 100));
    });

  test("goes on after the stall if it has a deadline", async () => {
    const answer = within(700, answered());
    stall(800);
    expect(await answer).toBe("an answer");
  });

  test("is over after the stall if a TTL bounds it", async () => {
    const start = now();
    const answer = withinTtl(() => 700 - elapsedSince(start), answered());
    stall(800);
    await expect(answer).rejects.toThrow(/^no answer within \d+ ms$/);
  });

  test("has the answer, or what it fails with, if that comes in time", async () => {
    expect(await withinTtl(() => 5_000, Promise.resolve("an answer"))).toBe("an answer");
    await expect(withinTtl(() => 5_000, Promise.reject(new Error("a fault")))).rejects.toThrow("a fault");
  });
});
