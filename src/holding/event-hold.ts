import type { Lock } from "../contract/lock.ts";
import { monotonic } from "../runtime/clock.ts";
import type { LockEventSource } from "../runtime/lock-event-source.ts";
import type { Grant } from "../sessions/grant.ts";
import type { Hold } from "../waiting/attempt.ts";

/** Wraps `hold` so that it also emits the event `acquired`. To be called at the start of the acquire, from which `waited` is counted. */
export function holdAndEmit<H extends Lock>(events: LockEventSource, hold: Hold<Grant, H>): Hold<Grant, H> {
  const start = monotonic();
  return (grant, wanted) => {
    const lock = hold(grant, wanted);
    events.acquired(lock, start);
    return lock;
  };
}
