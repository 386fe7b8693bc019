import { quote } from "../../contract/plain-text.ts";
import { usageFailure } from "../failure.ts";

/** The environment variable for the seconds that the user's own PostgreSQL may be unused, read when it is started. */
export const idleVariable = "PG_LOCKER_SERVER_IDLE_SECONDS";

const tenMinutes = 600_000;
/** The longest value, one day in seconds: timers of Node.js can't be longer than 24 days. */
const longest = 86_400;

/**
 * How many milliseconds the server may be unused before it stops.
 *
 * @throws {Failure} the variable doesn't hold such a number
 */
export function idleTimeOf(env: NodeJS.ProcessEnv = process.env): number {
  const given = env[idleVariable];
  if (!given) return tenMinutes;
  const seconds = Number(given);
  if (seconds > 0 && seconds <= longest) return seconds * 1_000;
  throw usageFailure(
    `Expected ${idleVariable} to be a number of seconds from 1 to ${longest}, got ${quote(given)}`,
  );
}

/** Such as `10 minutes`. */
export function spoken(milliseconds: number): string {
  const seconds = Math.ceil(milliseconds / 1_000);
  const [amount, unit] = seconds > 90 ? [Math.round(seconds / 60), "minute"] : [seconds, "second"];
  return `${amount} ${unit}${amount === 1 ? "" : "s"}`;
}
