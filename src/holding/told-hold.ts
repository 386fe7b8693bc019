import type { Lock } from "../contract/lock.ts";
import type { LockEventSource } from "../runtime/lock-event-source.ts";
import type { Grant } from "../sessions/grant.ts";
import type { Hold } from "../waiting/attempt.ts";

/** Holds what is granted, and has it told; the call for it has just begun. */
export function telling<H extends Lock>(events: LockEventSource, hold: Hold<Grant, H>): Hold<Grant, H> {
  const start = performance.now();
  return (grant, wanted) => {
    const lock = hold(grant, wanted);
    events.acquired(lock, start);
    return lock;
  };
}
