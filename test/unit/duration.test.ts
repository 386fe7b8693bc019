import { expect, test } from "vitest";
import { formatDuration, milliseconds, parseDuration } from "../../src/contract/duration.ts";

test.each([
  ["0", 0],
  ["-0", 0],
  ["+0", 0],
  ["5s", 5_000],
  ["+5s", 5_000],
  ["-5s", -5_000],
  ["-.5s", -500],
  ["5.s", 5_000],
  [".5s", 500],
  ["1.5h", 5_400_000],
  ["1m30s", 90_000],
  ["250ms", 250],
  ["1h2m3s4ms5us6ns", 3_723_004.005006],
  ["10\u00b5s", 0.01],
  ["10\u03bcs", 0.01],
  ["100ns", 0.0001],
  ["30s1h", 3_630_000],
  ["720h", 2_592_000_000],
])("%j is a duration, as in Go", (text, expected) => {
  expect(parseDuration(text)).toBeCloseTo(expected, 9);
});

test.each([
  "",
  "5",
  "-",
  "+",
  ".",
  "s",
  ".s",
  "-.s",
  "5 s",
  " 5s",
  "5s ",
  "5 parsecs",
  "5S",
  "1d",
  "1h-5m",
  "--5s",
  "1e3s",
  "1,5s",
  "5s!",
  "00",
  "NaN",
  "Infinity",
  "0x5s",
  "٥s",
])("%j is not a duration", (text) => {
  expect(parseDuration(text)).toBeUndefined();
});

test("a number is milliseconds", () => {
  expect(milliseconds(1.5)).toBe(1.5);
  expect(milliseconds(-1)).toBe(-1);
});

test.each([Number.NaN, null, undefined, true, 5n, {}, [], ["5s"]])("%s is not a duration", (value) => {
  expect(milliseconds(value)).toBeUndefined();
});

test.each([
  [0, "0s"],
  [1e-6, "1ns"],
  [0.0001, "100ns"],
  [0.0015, "1.5\u00b5s"],
  [1.5, "1.5ms"],
  [250, "250ms"],
  [999.9999999, "1s"],
  [1_000, "1s"],
  [1_500, "1.5s"],
  [30_000, "30s"],
  [59_999.9999999, "1m0s"],
  [60_000, "1m0s"],
  [90_000, "1m30s"],
  [3_600_000, "1h0m0s"],
  [3_599_999.9999999, "1h0m0s"],
  [5_400_500, "1h30m0.5s"],
  [2_592_000_000, "720h0m0s"],
  [-90_000, "-1m30s"],
])("%d ms are written as Go writes them: %s", (duration, expected) => {
  expect(formatDuration(duration)).toBe(expected);
});

test("what is written reads back the same", () => {
  for (const duration of [1e-6, 0.25, 1, 12.345678, 999, 61_001, 3_723_004.005006, 1e10, -42]) {
    expect(parseDuration(formatDuration(duration))).toBeCloseTo(duration, 4);
  }
});
