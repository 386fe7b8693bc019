import { quote } from "../contract/plain-text.ts";
import type { Values } from "./command.ts";
import { usageFailure } from "./failure.ts";

/**
 * The namespace given by `--namespace`; 0 if it isn't given.
 *
 * @throws {Failure} it is not an int32
 */
export function namespaceOf(values: Values): number {
  const given = values["namespace"];
  if (given === undefined) return 0;
  const namespace = Number(given);
  if (/^-?\d+$/.test(String(given)) && (namespace | 0) === namespace) return namespace;
  throw usageFailure(
    `Expected --namespace to be an integer from -2147483648 to 2147483647, got ${quote(given)}`,
  );
}
