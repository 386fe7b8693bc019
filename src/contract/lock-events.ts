import type { LockMode } from "./locker.ts";

/**
 * The events of a locker, by name, with what a listener gets: see `locker.on`. A subscriber of a diagnostics channel of the same name, such
 * as `pg-locker:acquired`, gets the same. What that subscriber throws is an `uncaughtException`, as with every channel of Node.js, and so
 * ends a process without a handler for it; an error of a listener of `on` is a warning.
 */
export interface LockEvents {
  /**
   * A lock was granted; its caller is about to get the handle. `acquireAll` emits one event for each lock as it is granted: if another one
   * turns out to be held elsewhere, those granted so far have kept others out for a while, and are `released` again, without a handle.
   *
   * For a permit of a semaphore, the event is emitted when the caller gets the permit.
   */
  readonly acquired: LockEvent & {
    readonly mode: LockMode;
    /** Milliseconds from the call to the grant. */
    readonly waited: number;
    readonly fencingToken: bigint | undefined;
  };
  /** A holder released a lock that it still held. */
  readonly released: LockEvent;
  /** A lock ended without a release, also by `close()`. `reason` is what `lock.signal` aborts with. */
  readonly lost: LockEvent & { readonly reason: Error };
  /**
   * A caller begins to wait for a lock that somebody else holds. Once for each wait. Whoever waits for a permit doesn't know yet which
   * it will be: `id` is then the first of its semaphore's ids.
   */
  readonly waiting: LockEvent & { readonly mode: LockMode };
  /** A connection is ready to carry locks or to wait for them. Never with a `MemoryLocker`. */
  readonly sessionOpened: SessionEvent;
  /** A connection that carried locks, or waited for them, goes back to its pool, or has ended with all its locks. */
  readonly sessionClosed: SessionEvent & {
    /** Why the session ended; `undefined` if it carried no lock and was returned or ended as it should. */
    readonly reason: Error | undefined;
  };
}

export type LockEventName = keyof LockEvents;

export interface LockEvent {
  readonly namespace: number;
  readonly key: string;
  readonly id: bigint;
  /** Milliseconds. */
  readonly ttl: number;
}

export interface SessionEvent {
  readonly namespace: number;
  /** The process id of the session's backend. */
  readonly pid: number;
  /** What the session is for: many locks, one lock, or waiting inside the server for one lock and then carrying it. */
  readonly use: "shared" | "dedicated" | "waiting";
}

export type LockEventListener<E extends LockEventName> = (event: LockEvents[E]) => void;
