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

/** Who is told once what came of a try for a lock: at once if that is a refusal that needs no question, later otherwise. */
export interface TryListener<G> {
  granted(grant: G): void;
  refused(refusal: Refusal): void;
  failed(error: unknown): void;
}

/** Tells a listener what a promise comes to. */
export function tell<G extends object>(listener: TryListener<G>, answer: Promise<G | Refusal>): void {
  answer.then(
    (granted) => {
      if ("refused" in granted) listener.refused(granted);
      else listener.granted(granted);
    },
    (error: unknown) => listener.failed(error),
  );
}

/** Makes a promise of what a listener would be told. */
export function promised<G>(ask: (listener: TryListener<G>) => void): Promise<G | Refusal> {
  return new Promise((granted, failed) => ask({ granted, refused: granted, failed }));
}

/** Where locks are to be had: how one is tried for, and waited for. */
export interface LockStore<G> {
  /** Tries once. */
  tryLock(request: LockRequest, listener: TryListener<G>): void;
  /** Whether a try would not have to queue for a connection first. Default: it wouldn't. */
  canTry?(): boolean;
  /** Tries once, as one of many that do so again and again. Default: {@link tryLock}. */
  pollLock?(request: LockRequest, listener: TryListener<G>): void;
  /** Whether there is a place to wait in the server. Default: there is none. */
  hasPlaceToWait?(): boolean;
  /**
   * Waits in the server, for `bound` milliseconds at most or until {@link LockRequest.cancel}. Is refused at once if there is no
   * place to do so.
   */
  waitLock?(request: LockRequest, bound: number, listener: TryListener<G>): void;
  /** It waits on a connection of its own, not on one of the few that others queue for. */
  readonly bringsPlace?: boolean;
  /** It waits in the server at once, without a try and past the line of its process. */
  readonly skipsLine?: boolean;
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
  /** The backend of the session that has the lock. Absent where there is none. */
  readonly pid?: number | undefined;
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
  /** As {@link release}, but tells a listener: for locks that are many. May be called again, and says the same then. */
  free?(listener: ReleaseListener): void;
}

/** Who is told once what came of a release: at once if nothing has to be asked for it. */
export interface ReleaseListener {
  freed(): void;
  notFreed(error: unknown): void;
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
