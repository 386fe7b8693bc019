import { quote } from "../contract/plain-text.ts";
import type { Options, Values } from "./command.ts";
import { usageFailure } from "./failure.ts";

/** Options that decide what `run` needs of a database; `doctor` has them too, to judge by them. */
export const lockOptions = {
  "no-fencing": { value: "none" },
  pooler: { value: "required" },
} as const satisfies Options;

export interface HowLocksAreTaken {
  /** Whether an exclusive lock comes with a fencing token. */
  readonly fencing: boolean;
  readonly pooler: "refuse" | "session";
}

/** @throws {Failure} `--pooler` has an unknown value */
export function howLocksAreTaken(values: Values): HowLocksAreTaken {
  const pooler = values["pooler"] ?? "refuse";
  if (pooler !== "refuse" && pooler !== "session") {
    throw usageFailure(`Expected --pooler to be refuse or session, got ${quote(pooler)}`);
  }
  return { fencing: values["no-fencing"] !== true, pooler };
}
