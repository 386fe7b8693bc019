import type { LockMode } from "../contract/locker.ts";
import type { Recovering } from "../postgres/reservation.ts";
import type { Instant } from "../runtime/clock.ts";

/** What is asked of whoever grants locks. */
export interface LockRequest {
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  /** Milliseconds. */
  readonly ttl: number;
  /** Whether the holder gets a fencing token. */
  readonly fencing: boolean;
  /** Set when the caller has given up: nothing more is to be sent for it. */
  abandoned: boolean;
  /** Set as soon as something is sent that may grant the lock. */
  sent: boolean;
  /** Ends a wait in the server; set while there is one. Its answer still comes, and says whether the lock was granted. */
  cancel: (() => void) | undefined;
}

/** Who is told what becomes of a lock by itself. */
export interface GoneListener {
  /** It has gone. */
  gone(cause: Error): void;
  /** It was to be proved over and over, see {@link Grant.keepProven}, and its TTL may have passed without. */
  overdue(): void;
}

/** A lock as granted, before it has a handle: how it is kept, proved and given back. */
export interface Grant {
  /** When the statement was sent that last showed the lock to be held, whoever asked. */
  readonly provenAt: Instant;
  readonly fencingToken: bigint | undefined;
  /** Whether the lock goes by itself when its TTL passes: its holder then gives it back at once, for it is over. */
  readonly lapses: boolean;
  /**
   * Has the lock proved at a third of a TTL of so many milliseconds, over and over, together with what else its session
   * carries, and its listener told when that fails; `undefined`: no more. Absent where nobody does, and the holder refreshes
   * by itself.
   */
  keepProven?(ttl: number | undefined): void;
  /** Why it is gone, where that is known. */
  readonly goneBecause: Error | undefined;
  /** Tells `listener`, the only one there is, and of its going once. */
  onGone(listener: GoneListener): void;
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
  | {
      readonly refused: "held";
      /** By the caller's own transaction, or its session: a wait for that has no end. */
      readonly byItself?: true;
    }
  | { readonly refused: "pool-saturated"; readonly waited: number }
  | Recovering
  | { readonly refused: "abandoned" };
