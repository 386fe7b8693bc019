import { usageFailure } from "./failure.ts";

const millisecondsIn: Readonly<Record<string, number>> = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000 };

/**
 * The duration that an option was given, in Go's grammar: `30s`, `1m30s`, `250ms`; a bare `0` as well.
 *
 * @param option by its name, for the sentence
 * @returns milliseconds
 * @throws {Failure} where the text is none
 */
export function durationOf(option: string, text: string): number {
  if (text === "0") return 0;
  if (!/^(\d+(\.\d+)?(ms|s|m|h))+$/.test(text)) {
    throw usageFailure(`Expected ${option} to be a duration such as "30s" or "1m30s", got "${text}"`);
  }
  const parts = [...text.matchAll(/([\d.]+)(ms|s|m|h)/g)];
  return parts.reduce((sum, [, amount, unit = ""]) => sum + Number(amount) * (millisecondsIn[unit] ?? 0), 0);
}

/** As {@link durationOf}, and a bare number is seconds, as flock has it. */
export function secondsOf(option: string, text: string): number {
  if (/^\d+(\.\d+)?$/.test(text)) return Number(text) * 1_000;
  return durationOf(option, text);
}
