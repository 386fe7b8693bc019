import { debuglog, format } from "node:util";
import { plainJson } from "../contract/plain-text.ts";

const log = debuglog("pg-locker");

/** Whether the debug log is on. Checked before each {@link debug}, so that nothing is made for a log that is off. */
export const isDebugged = log.enabled;

/**
 * Writes a line to standard error if the process was started with `NODE_DEBUG=pg-locker`: one for each transition, for debugging. The
 * lines are not part of the public contract. They contain keys, but no connection settings. Characters that would move a terminal's cursor are escaped.
 */
export function debug(what: string, facts: object): void {
  log("%s %s", what, plainJson(format("%j", facts)));
}
