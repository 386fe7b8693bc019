import type { Instant } from "./clock.ts";
import type { LockMode } from "./locker.ts";

/** What is asked of whoever grants locks. */
export interface LockRequest {
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  /** Milliseconds. */
  readonly ttl: number;
  /** Set when the caller has given up: nothing more is to be sent for it. */
  abandoned: boolean;
  /** Set as soon as something is sent that may grant the lock. */
  sent: boolean;
}

/** A lock as granted, before it has a handle: how it is kept, proved and given back. */
export interface Grant {
  /** When the statement was sent that last showed the lock to be held. */
  readonly confirmedAt: Instant;
  /** Why it is gone, where that is known. */
  readonly goneBecause: Error | undefined;
  /** Calls `listener` once if the lock goes by itself. */
  onGone(listener: (cause: Error) => void): void;
  /**
   * Proves within `deadline` milliseconds that the lock is held, and keeps it for another `ttl`. A failure ends it.
   *
   * @returns when the proof was asked for
   */
  refresh(ttl: number, deadline: number): Promise<Instant>;
  /** Gives the lock back; a failure ends it all the same, and says that it was not held, or not surely so. */
  release(): Promise<void>;
}

/** Why a lock was not granted, when nothing went wrong. `waited` is in milliseconds. */
export type Refusal =
  | { readonly refused: "held" }
  | { readonly refused: "pool-saturated"; readonly waited: number }
  | { readonly refused: "abandoned" };
