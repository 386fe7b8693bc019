import type { LockMode } from "../contract/locker.ts";
import type { Recovering } from "../postgres/reservation.ts";
import type { Instant } from "../runtime/clock.ts";
import { Stop } from "../runtime/stop-signal.ts";

/** A lock that somebody wants. Times are in milliseconds. */
export interface WantedLock {
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  /** How long its holder may rely on it. */
  readonly ttl: number;
  /** The minimum time for which it stays in the server. `undefined`: none. */
  readonly holdAtLeast?: number | undefined;
  /** Whether the holder gets a fencing token. */
  readonly fencing: boolean;
}

/** An attempt at a lock, as a store sees it. */
export interface LockRequest {
  readonly wanted: WantedLock;
  /** Set when the caller has given up: nothing more may be sent for it. */
  abandoned: boolean;
  /** Set as soon as something is sent that may grant the lock. */
  sent: boolean;
  /** Set if a store asks for it a second time, because the session ended before the turn of the first came. */
  isRepeated: boolean;
  /** Ends a wait in the server, or for a connection. The answer still comes, and says whether the lock was granted. */
  cancel: (() => void) | undefined;
}

/** A signal that aborts when the wait of a request is cancelled. */
export function cancelled(request: LockRequest): Stop {
  const left = new Stop();
  request.cancel = () => left.abort(undefined);
  return left;
}

/** Is told the outcome of a try, once: at once if it is a refusal that needs no question to the server, later otherwise. */
export interface TryListener<G> {
  granted(grant: G): void;
  refused(refusal: Refusal): void;
  failed(error: unknown): void;
}

/** Tells a listener the outcome of a promise. */
export function tell<G extends object>(listener: TryListener<G>, answer: Promise<G | Refusal>): void {
  answer.then(
    (granted) => {
      if ("refused" in granted) listener.refused(granted);
      else listener.granted(granted);
    },
    (error: unknown) => listener.failed(error),
  );
}

/** Returns a promise of what a listener would be told. */
export function promised<G>(ask: (listener: TryListener<G>) => void): Promise<G | Refusal> {
  return new Promise((granted, failed) => ask({ granted, refused: granted, failed }));
}

/** Where locks live: how one is tried for, and waited for. */
export interface LockStore<G> {
  /** Tries once. */
  tryLock(request: LockRequest, listener: TryListener<G>): void;
  /** Whether a try can be made without queueing for a connection. Default: yes. */
  canTry?(): boolean;
  /** Tries once, as one of many callers that poll. Default: {@link tryLock}. */
  pollLock?(request: LockRequest, listener: TryListener<G>): void;
  /** Whether only the lines of this process keep waiters in order, so that a try must not overtake them. Default: the server does. */
  readonly hasNoOrder?: boolean;
  /** Whether there is a place to wait in the server. Default: no. */
  hasPlaceToWait?(): boolean;
  /**
   * Waits in the server, for at most `bound` milliseconds or until {@link LockRequest.cancel}. Refuses at once if there is no place to
   * wait.
   */
  waitLock?(request: LockRequest, bound: number, listener: TryListener<G>): void;
  /** Whether it waits on a connection of its own, not on one of the few that others queue for. */
  readonly bringsPlace?: boolean;
  /** Whether it waits in the server at once, without a try and past the line of its process. */
  readonly skipsLine?: boolean;
}

/** Is told when a lock ends by itself. */
export interface GoneListener {
  /** The lock has gone. */
  gone(cause: Error): void;
  /** Its TTL may have passed without a proof, although {@link Grant.keepProven} was to prevent that. */
  overdue(): void;
}

/** A lock as granted, before it has a handle: how it is kept, proved and given back. */
export interface Grant {
  /** When the statement was sent that granted it, or proved it since, before it had a handle. */
  readonly grantedAt: Instant;
  /** Only with {@link keepProven}: when its session was last proved, for whatever lock. */
  readonly keptAt?: Instant;
  readonly fencingToken: bigint | undefined;
  /** Whether the server frees the lock when its TTL passes. The handle then gives it back as soon as that has passed. */
  readonly lapses: boolean;
  /**
   * Proves the lock again and again, within a third of `ttl` milliseconds, together with whatever else its session carries, and tells the
   * listener when that fails; `undefined`: no longer. Absent if the session does no such thing; the holder then refreshes the lock itself.
   */
  keepProven?(ttl: number | undefined): void;
  /** The backend of the session that has the lock. Absent if there is none. */
  readonly pid?: number | undefined;
  /** Why the lock is gone, if that is known. */
  readonly goneBecause: Error | undefined;
  /** Tells `listener`, the only one, once when the lock has gone. */
  onGone(listener: GoneListener): void;
  /**
   * Proves within `deadline` milliseconds that the lock is held, and keeps it for another `ttl`. A failure ends the lock.
   *
   * @returns when the proof was asked for
   */
  refresh(ttl: number, deadline: number): Promise<Instant>;
  /**
   * Its holder has given it back, but it is kept, until what `until` returns. Absent if nothing but the locker's registry shows who holds a
   * lock.
   */
  keep?(until: () => Date): void;
  /** Gives the lock back. A failure ends it all the same, and says that it was not held, or may not have been. */
  release(): Promise<void>;
  /**
   * Gives the lock back as {@link release} does, but without a promise, because there are many locks. A second call has the same outcome.
   * Only called if the holder still holds the lock.
   */
  free?(listener: ReleaseListener): void;
}

/** Is told the outcome of a release, once: at once if the server need not be asked. */
export interface ReleaseListener {
  freed(): void;
  notFreed(error: unknown): void;
}

/** Why a lock was not granted, although nothing went wrong. `waited` is in milliseconds. */
export type Refusal =
  | {
      readonly refused: "held";
      /** Held by the caller's own transaction or session: a wait for that would never end. */
      readonly byItself?: true;
    }
  | { readonly refused: "pool-saturated"; readonly waited: number }
  | Recovering
  | { readonly refused: "abandoned" };
