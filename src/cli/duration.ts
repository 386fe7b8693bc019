import { quote } from "../contract/plain-text.ts";
import { parseDuration } from "../index.ts";
import { usageFailure } from "./failure.ts";

const bareNumber = /^(\d+\.?\d*|\.\d+)$/;

/**
 * Reads the duration that an option was given, in Go's grammar: `30s`, `1m30s`, `250ms`, or a bare `0`.
 *
 * @param option the option's name, for the sentence
 * @returns milliseconds, at least 0
 * @throws {Failure} the text is not a duration, or is negative
 */
export function durationOf(option: string, text: string): number {
  const milliseconds = parseDuration(text);
  if (milliseconds !== undefined && milliseconds >= 0) return milliseconds;
  const hint = bareNumber.test(text) ? `: for seconds, write ${text}s` : "";
  throw usageFailure(
    `Expected ${option} to be a duration such as "30s" or "1m30s", got ${quote(text)}${hint}`,
  );
}

/** Reads a duration as {@link durationOf} does, but takes a bare number as seconds, as flock does. */
export function secondsOf(option: string, text: string): number {
  if (bareNumber.test(text)) return Number(text) * 1_000;
  return durationOf(option, text);
}
