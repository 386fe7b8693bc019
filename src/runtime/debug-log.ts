import { debuglog } from "node:util";

const log = debuglog("pg-locker");

/** For what every lock goes through, which is not even to make a function. */
export const isDebugged = log.enabled;

/**
 * Writes a line to standard error if the process was started with `NODE_DEBUG=pg-locker`: one for each transition, for whoever looks for
 * a fault. Not part of the contract. Keys are in it, values of connections are not.
 *
 * @param facts called only if somebody reads them
 */
export function debug(what: string, facts: () => object): void {
  if (isDebugged) log("%s %j", what, facts());
}
