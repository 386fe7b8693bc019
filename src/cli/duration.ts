import { parseDuration } from "../index.ts";
import { usageFailure } from "./failure.ts";

const bareNumber = /^(\d+\.?\d*|\.\d+)$/;

/**
 * The duration that an option was given, in Go's grammar: `30s`, `1m30s`, `250ms`; a bare `0` as well.
 *
 * @param option by its name, for the sentence
 * @returns milliseconds, at least 0
 * @throws {Failure} if the text is none, or less than 0
 */
export function durationOf(option: string, text: string): number {
  const milliseconds = parseDuration(text);
  if (milliseconds !== undefined && milliseconds >= 0) return milliseconds;
  const hint = bareNumber.test(text) ? `: for seconds, write ${text}s` : "";
  throw usageFailure(`Expected ${option} to be a duration such as "30s" or "1m30s", got "${text}"${hint}`);
}

/** As {@link durationOf}, and a bare number is seconds, as flock has it. */
export function secondsOf(option: string, text: string): number {
  if (bareNumber.test(text)) return Number(text) * 1_000;
  return durationOf(option, text);
}
