import type { LockMode } from "./locker.ts";

/** What a locker tells, by the name of the event: see `locker.on`. */
export interface LockEvents {
  /** A lock was granted, and its caller is about to get it. */
  readonly acquired: LockEvent & {
    readonly mode: LockMode;
    /** Milliseconds from the call to the grant. */
    readonly waited: number;
    readonly fencingToken: bigint | undefined;
  };
  /** A lock was given back by its holder, while it was held. */
  readonly released: LockEvent;
  /** Holding has ended without a release: what `lock.signal` aborts with. A locker that is closed ends its locks so, too. */
  readonly lost: LockEvent & { readonly reason: Error };
  /** A caller begins to wait for a lock that somebody else has. Once for each wait. */
  readonly waiting: LockEvent & { readonly mode: LockMode };
  /** A connection has been made fit to carry locks, or to wait for them. Never with a `MemoryLocker`. */
  readonly sessionOpened: SessionEvent;
  /** Such a connection goes back to its pool, or is gone, with all locks that it carried. */
  readonly sessionClosed: SessionEvent & {
    /** Why it is gone; `undefined`: it carried nothing, and went back or ended as it should. */
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
  /** The backend. */
  readonly pid: number;
  /** What it is for: many locks, one lock, or waiting inside the server and the lock that was waited for. */
  readonly use: "shared" | "dedicated" | "waiting";
}

export type LockEventListener<E extends LockEventName> = (event: LockEvents[E]) => void;
