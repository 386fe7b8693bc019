import type { Options, Values } from "./command.ts";
import { usageFailure } from "./failure.ts";

/** Options of `run` that decide what it needs of a database; `doctor` takes them, too, and judges by them. */
export const lockOptions = {
  "no-fencing": { value: "none" },
  pooler: { value: "required" },
} as const satisfies Options;

export interface HowLocksAreTaken {
  /** Whether a lock comes with a token, unless it is shared. */
  readonly fencing: boolean;
  readonly pooler: "refuse" | "session";
}

/** @throws {Failure} `--pooler` has another value */
export function howLocksAreTaken(values: Values): HowLocksAreTaken {
  const pooler = values["pooler"] ?? "refuse";
  if (pooler !== "refuse" && pooler !== "session") {
    throw usageFailure(`Expected --pooler to be refuse or session, got "${pooler}"`);
  }
  return { fencing: values["no-fencing"] !== true, pooler };
}
