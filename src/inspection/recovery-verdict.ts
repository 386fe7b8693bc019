import { formatDuration } from "../contract/duration.ts";
import type { LockTableDated } from "../postgres/sql-recovery.ts";
import type { Verdict } from "./diagnosis-verdicts.ts";

const since: Record<LockTableDated["from"], string> = {
  start: "since the server's start",
  reset: "since its statistics were reset, as by a crash",
  promotion: "since the last checkpoint, as the server was promoted and has not been restarted",
};

/** The verdict on the age of the lock table and the cost of a `recoveryGrace`. `dated`: `undefined` for a standby. */
export function recoveryVerdict(dated: LockTableDated | undefined): Verdict {
  if (dated === undefined) {
    const found = "a standby doesn't say how old its lock table is";
    return { verdict: "warn", found, advice: "Connect to the primary" };
  }
  const { age, from, isPromoted, checkpointTimeout } = dated;
  const old = `the lock table is ${inSeconds(age)} old, ${since[from]}`;
  const found = `${old}: a \`recoveryGrace\` costs one statement for each session that is opened`;
  if (!isPromoted) return { verdict: "ok", found };
  const advice =
    "A process with a `recoveryGrace` that starts while nobody holds a lock waits until it has passed since the last checkpoint " +
    `(there is one every ${formatDuration(checkpointTimeout)} or more often), until the server is restarted`;
  return { verdict: "ok", found, advice };
}

function inSeconds(age: number): string {
  return age < 10_000
    ? formatDuration(Math.round(age / 100) * 100)
    : formatDuration(Math.floor(age / 1_000) * 1_000);
}
