import { usageFailure } from "../failure.ts";

/** The variable that says for how many seconds the user's own PostgreSQL may be unused, when it is started. */
export const idleVariable = "PG_LOCKER_SERVER_IDLE_SECONDS";

const tenMinutes = 600_000;
/** A day: timers of Node's go wrong beyond 24 of them. */
const longest = 86_400;

/**
 * For how many milliseconds the server may be unused before it stops.
 *
 * @throws {Failure} where the variable holds no such number
 */
export function idleTimeOf(env: NodeJS.ProcessEnv = process.env): number {
  const given = env[idleVariable];
  if (!given) return tenMinutes;
  const seconds = Number(given);
  if (seconds > 0 && seconds <= longest) return seconds * 1_000;
  throw usageFailure(
    `Expected ${idleVariable} to be a number of seconds from 1 to ${longest}, got "${given}"`,
  );
}

/** Such as `10 minutes`. */
export function spoken(milliseconds: number): string {
  const seconds = Math.ceil(milliseconds / 1_000);
  const [amount, unit] = seconds > 90 ? [Math.round(seconds / 60), "minute"] : [seconds, "second"];
  return `${amount} ${unit}${amount === 1 ? "" : "s"}`;
}
