import type { Lock } from "../contract/lock.ts";
import type { Logger } from "../contract/locker.ts";
import type { Grant } from "../sessions/grant.ts";
import type { Wanted } from "../waiting/attempt.ts";
import type { HeldLock } from "./held-lock.ts";
import type { LockOwner } from "./lock-owner.ts";
import type { LockRegistry } from "./lock-registry.ts";
import type { HandleTracker } from "./tracked-lock.ts";

/** A lock that no event, metric or span reports until {@link report} is called. */
export interface UnreportedLock {
  readonly lock: Lock;
  /** Called when the caller gets the lock, which must be held: from then on it is reported and counted like any other. */
  report(): void;
}

/** The parts of a locker that its unreported locks use. */
export interface UnreportedLocksParts {
  readonly owner: LockOwner;
  readonly registry: LockRegistry;
  readonly tracker: HandleTracker | undefined;
}

/** The locks that a locker takes for its own purposes, or whose callers have not got them yet. */
export class UnreportedLocks {
  readonly #parts: UnreportedLocksParts;
  readonly #silence: LockOwner["telemetry"];
  readonly #locks = new Set<HeldLock>();

  constructor(parts: UnreportedLocksParts) {
    this.#parts = parts;
    this.#silence = silence(parts.owner.telemetry.log);
  }

  /** How many there are in the locker's registry. */
  get size(): number {
    return this.#locks.size;
  }

  /** Makes a handle of a grant, and registers it. @throws {DatabaseError} the TTL has passed since the grant was asked for */
  hold(grant: Grant, wanted: Wanted): UnreportedLock {
    const { owner, registry, tracker } = this.#parts;
    const own = {
      ...owner,
      telemetry: this.#silence,
      forget: (lock: HeldLock) => {
        this.#locks.delete(lock);
        owner.forget(lock);
      },
    };
    const lock = registry.holdBy(own)(grant, wanted);
    this.#locks.add(lock);
    return {
      lock: tracker?.track(lock) ?? lock,
      report: () => {
        this.#locks.delete(lock);
        own.telemetry = owner.telemetry;
        own.telemetry.granted();
      },
    };
  }
}

/** Telemetry that reports nothing, except a loss, at the level `debug`. */
function silence(log: Logger): LockOwner["telemetry"] {
  return {
    log,
    isTraced: false,
    granted() {},
    succeeded() {},
    failed() {},
    ended({ key, id }, cause) {
      if (cause !== undefined)
        log.debug({ key, id: id.toString(), err: cause }, "a lock of the locker's own ended");
    },
    observe: (_operation, _lock, _signal, work) => work(),
    inSpan: (_operation, _lock, _signal, work) => work(),
  };
}
