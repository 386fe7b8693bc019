import { inspect } from "node:util";
import type { Lock, RefreshOptions } from "../contract/lock.ts";
import type { Duration, LockMode, Logger } from "../contract/locker.ts";
import { quote } from "../contract/plain-text.ts";
import type { Grant } from "../sessions/grant.ts";
import type { Hold } from "../waiting/attempt.ts";
import type { HeldLock } from "./held-lock.ts";

/**
 * Logs each handle that is garbage-collected while its lock is held. Only `close()` can release such a lock, and with `autoRefresh` it is
 * held for as long as the process lives.
 */
export class HandleTracker {
  readonly #log: Logger;
  readonly #registry = new FinalizationRegistry<HeldLock>((lock) => {
    if (!lock.held && !lock.expired) return;
    this.#log.warn(
      { key: lock.key, id: lock.id.toString() },
      `the handle of the lock ${quote(lock.key)} was garbage-collected without a release: only close() can free the lock now`,
    );
  });

  constructor(log: Logger) {
    this.#log = log;
  }

  track(lock: HeldLock): Lock {
    const handle = new TrackedLock(lock);
    this.#registry.register(handle, lock);
    return handle;
  }
}

/** Wraps `hold` for handles that a caller gets, which the tracker watches, if there is one. */
export function trackedHold(
  hold: Hold<Grant, HeldLock>,
  tracker: HandleTracker | undefined,
): Hold<Grant, Lock> {
  return tracker === undefined ? hold : (grant, wanted) => tracker.track(hold(grant, wanted));
}

/** The object that the caller gets. Nothing in the locker refers to it, so that it can be garbage-collected. */
class TrackedLock implements Lock {
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  readonly #lock: HeldLock;

  constructor(lock: HeldLock) {
    this.key = lock.key;
    this.id = lock.id;
    this.mode = lock.mode;
    this.#lock = lock;
  }

  get ttl(): number {
    return this.#lock.ttl;
  }

  get held(): boolean {
    return this.#lock.held;
  }

  get expired(): boolean {
    return this.#lock.expired;
  }

  get expiresAt(): Date {
    return this.#lock.expiresAt;
  }

  get remaining(): number {
    return this.#lock.remaining;
  }

  get signal(): AbortSignal {
    return this.#lock.signal;
  }

  get fencingToken(): bigint | undefined {
    return this.#lock.fencingToken;
  }

  assertHeld(): void {
    this.#lock.assertHeld();
  }

  refresh(ttl?: Duration, options?: RefreshOptions): Promise<void> {
    return this.#lock.refresh(ttl, options);
  }

  release(): Promise<void> {
    return this.#lock.release();
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#lock[Symbol.asyncDispose]();
  }

  toJSON(): object {
    return this.#lock.toJSON();
  }

  [inspect.custom](depth: unknown, options: object): string {
    return this.#lock[inspect.custom](depth, options);
  }
}
