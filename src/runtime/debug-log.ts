import { debuglog } from "node:util";

const log = debuglog("pg-locker");

/** Whether the debug log is on. Checked first on paths that every lock takes, to avoid creating a function. */
export const isDebugged = log.enabled;

/**
 * Writes a line to standard error if the process was started with `NODE_DEBUG=pg-locker`: one for each transition, for debugging. The
 * lines are not part of the public contract. They contain keys, but no connection settings.
 *
 * @param facts called only if the log is on
 */
export function debug(what: string, facts: () => object): void {
  if (isDebugged) log("%s %j", what, facts());
}
