import { inspect } from "node:util";
import type { Lock } from "../contract/lock.ts";

/** What `JSON.stringify` writes for a lock, with each `bigint` as a string. */
export function jsonOf({ key, id, mode, ttl, held, expired, fencingToken }: Lock): object {
  return { key, id: id.toString(), mode, ttl, held, expired, fencingToken: fencingToken?.toString() };
}

/** What `console.log` shows for a lock. */
export function shownOf(lock: Lock, options: object): string {
  const { key, id, mode, held, expired, ttl, fencingToken } = lock;
  const shown = { key, id, mode, held, expired, ttl, ...(fencingToken !== undefined && { fencingToken }) };
  return `Lock ${inspect(shown, options)}`;
}
