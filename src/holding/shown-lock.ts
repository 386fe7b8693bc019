import { inspect } from "node:util";
import { LockNotHeldError, type NotHeldReason } from "../contract/errors.ts";
import type { Lock } from "../contract/lock.ts";

/** What `JSON.stringify` writes for a lock, with each `bigint` as a string. `reason`: why it is not held. */
export function jsonOf(lock: Lock): object {
  const { key, id, mode, ttl, held, expired, fencingToken } = lock;
  const reason = whyNotHeld(lock);
  return { key, id: id.toString(), mode, ttl, held, expired, reason, fencingToken: fencingToken?.toString() };
}

/** What `console.log` shows for a lock. */
export function shownOf(lock: Lock, options: object): string {
  const { key, id, mode, held, expired, ttl, fencingToken } = lock;
  const reason = whyNotHeld(lock);
  const shown = {
    ...{ key, id, mode, held, expired },
    ...(reason !== undefined && { reason }),
    ttl,
    ...(fencingToken !== undefined && { fencingToken }),
  };
  return `Lock ${inspect(shown, options)}`;
}

/** Why a lock is not held, as its next operation would say; `undefined` if it is. */
function whyNotHeld(lock: Lock): NotHeldReason | undefined {
  try {
    lock.assertHeld();
  } catch (error) {
    if (error instanceof LockNotHeldError) return error.reason;
  }
  return undefined;
}
