import { LockNotAcquiredError } from "../contract/errors.ts";
import type { LockMode } from "../contract/locker.ts";
import { isFreeing, type Operation, type OperationAnswer, taking } from "../postgres/sql-shared.ts";
import { type Instant, soon, within } from "../runtime/clock.ts";
import type { GoneListener, Grant, LockRequest, Refusal, ReleaseListener, TryListener } from "./grant.ts";
import type { Carried, SharedSession } from "./shared-session.ts";
import { askForProof, type Task, type Undone } from "./task.ts";

/** Manages the locks of several sessions. Only it changes the state of a lock. */
export interface SharedLocks {
  /** Whether the server enforces TTLs. */
  readonly enforced: boolean;
  /** The locks that a session carries, or is about to. */
  carriedBy(session: SharedSession): Iterable<SharedLock>;
  /** The session takes no more locks: it has gone, with all that it carried, or it is on its way back to the pool. */
  ended(session: SharedSession, cause: Error | undefined): void;
  /** Nothing was proved for the smallest TTL of the locks that the session keeps proven: see {@link SharedSession.keepProven}. */
  overdue(session: SharedSession): void;
  taken(lock: SharedLock, answer: OperationAnswer, sentAt: Instant): void;
  notTaken(lock: SharedLock, why: Undone): void;
  takingFailed(lock: SharedLock, error: unknown): void;
  /** The holder gives the lock back, and is told the outcome by {@link SharedLock.released}. */
  free(lock: SharedLock): void;
  /** The answer to giving a lock back. `undefined`: it was not done. */
  freed(lock: SharedLock, answer: OperationAnswer): void;
  freeingFailed(lock: SharedLock, error: unknown): void;
}

//   taking ──"t"──▶ held ── released, nobody shares it ──▶ freeing ──answer──▶ gone
//   joining ─"t"──▶ held ── released, somebody does ─────▶ gone
//      └── refused, a fault ──▶ gone             its session ends, from any of them ──▶ gone
type SharedLockState =
  | { readonly is: "taking" | "joining" | "held" | "freeing" }
  /** `cause`: why, if it went by itself. */
  | { readonly is: "gone"; readonly cause: Error | undefined };

/** The states without data, shared by all locks. */
export const states = {
  taking: { is: "taking" },
  joining: { is: "joining" },
  held: { is: "held" },
  freeing: { is: "freeing" },
  gone: { is: "gone", cause: undefined },
} as const satisfies Record<string, SharedLockState>;

/** One holder's lock on a session that carries many, from the attempt to its end. */
export class SharedLock implements Grant, Carried, Task {
  readonly session: SharedSession;
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  state: SharedLockState;
  /** The same lock held by somebody else, on this session or another. Set only while the lock is in the registry's chain. */
  beside: SharedLock | undefined;
  /** Callers who asked for the same lock while it was being taken or freed. */
  whenSettled: Array<() => void> | undefined;
  grantedAt: Instant;
  fencingToken: bigint | undefined;
  // The attempt, until its answer.
  request: LockRequest | undefined;
  listener: TryListener<SharedLock> | undefined;
  /** The operation under way, or the last one. */
  operation: Operation;
  // Only its session writes these.
  carriedFor: number | undefined;
  provenWithin: number | undefined;
  #goneListener: GoneListener | undefined;
  /** Who is to be told that it was given back, or how that ended. `undefined`: nobody has given it back. */
  #release: ReleaseListener | ReleaseListener[] | Released | undefined;

  constructor(session: SharedSession, request: LockRequest, listener: TryListener<SharedLock>) {
    const { key, id, mode } = request.wanted;
    this.session = session;
    this.key = key;
    this.id = id;
    this.mode = mode;
    this.state = states.taking;
    this.beside = undefined;
    this.whenSettled = undefined;
    this.grantedAt = never;
    this.fencingToken = undefined;
    this.request = request;
    this.listener = listener;
    this.operation = taking[mode];
    this.carriedFor = undefined;
    this.provenWithin = undefined;
    this.#goneListener = undefined;
    this.#release = undefined;
  }

  /** Whether it is unknown at this moment if the server has granted it. */
  get isSettling(): boolean {
    return this.state.is === "taking" || this.state.is === "freeing";
  }

  done(answer: OperationAnswer, sentAt: Instant): void {
    if (isFreeing(this.operation)) this.session.locks.freed(this, answer);
    else this.session.locks.taken(this, answer, sentAt);
  }

  undone(why: Undone): void {
    if (isFreeing(this.operation)) this.session.locks.freed(this, undefined);
    else this.session.locks.notTaken(this, why);
  }

  failed(error: unknown): void {
    if (isFreeing(this.operation)) this.session.locks.freeingFailed(this, error);
    else this.session.locks.takingFailed(this, error);
  }

  /** Its session has ended, and its state says so. */
  lost(cause: Error): void {
    this.#goneListener?.gone(cause);
  }

  overdue(): void {
    this.#goneListener?.overdue();
  }

  get lapses(): boolean {
    return this.session.locks.enforced;
  }

  get keptAt(): Instant {
    return this.session.provenAt;
  }

  get pid(): number | undefined {
    return this.session.pid;
  }

  get goneBecause(): Error | undefined {
    const { state } = this;
    return (state.is === "gone" ? state.cause : undefined) ?? this.session.goneBecause;
  }

  keepProven(ttl: number | undefined): void {
    this.session.keepProven(this, ttl);
  }

  onGone(listener: GoneListener): void {
    const { state } = this;
    if (state.is !== "gone" || state.cause === undefined) this.#goneListener = listener;
    else tellGoneSoon(listener, state.cause);
  }

  async refresh(ttl: number, deadline: number): Promise<Instant> {
    this.session.carry(this, ttl);
    try {
      return await within(deadline, askForProof(this.session, this));
    } catch (error) {
      // Its holder relies on it no longer. The session, and other locks on it, may well live on.
      this.release().catch(() => {});
      throw error;
    }
  }

  release(): Promise<void> {
    return new Promise((freed, notFreed) => this.free({ freed, notFreed }));
  }

  /** Gives the lock back once, whether a refresh without an answer asks or the holder: after that, the server's lock may be another's. */
  free(listener: ReleaseListener): void {
    const before = this.#release;
    if (before === undefined) {
      this.#release = listener;
      this.session.locks.free(this);
    } else if (before instanceof Released) {
      before.tellSoon(listener);
    } else {
      this.#release = [before, listener].flat();
    }
  }

  /** The lock has been given back. @param error it may not have been held any more */
  released(error?: unknown): void {
    const listeners = this.#release;
    if (listeners instanceof Released) return;
    const released = error === undefined ? wasReleased : new Released(error);
    this.#release = released;
    if (Array.isArray(listeners)) for (const listener of listeners) released.tell(listener);
    else if (listeners !== undefined) released.tell(listeners);
  }
}

/** The outcome of a release. */
class Released {
  /** It may not have been held any more. `undefined`: it was. */
  readonly #error: unknown;

  constructor(error: unknown) {
    this.#error = error;
  }

  tell(listener: ReleaseListener): void {
    if (this.#error === undefined) listener.freed();
    else listener.notFreed(this.#error);
  }

  tellSoon(listener: ReleaseListener): void {
    soon(() => this.tell(listener));
  }
}

const wasReleased = new Released(undefined);

/** When a lock was proved that never was. */
const never: Instant = { monotonic: Number.NEGATIVE_INFINITY, wall: Number.NEGATIVE_INFINITY };

function tellGoneSoon(listener: GoneListener, cause: Error): void {
  soon(() => listener.gone(cause));
}

/** All holders' locks with one id, beginning with the first in the registry. */
export function* chainOf(first: SharedLock | undefined): Generator<SharedLock> {
  for (let lock = first; lock !== undefined; lock = lock.beside) yield lock;
}

/** Tells a caller why its lock was not asked for. */
export function refuse(
  { wanted: { key } }: LockRequest,
  listener: TryListener<SharedLock>,
  why: Exclude<Undone, "not sent">,
): void {
  let refusal: Refusal;
  if (why === "not wanted") refusal = { refused: "abandoned" };
  else if (why.refused === "recovering") refusal = why;
  else if (why.refused === "pool-saturated") refusal = { refused: why.refused, waited: why.waited };
  else {
    listener.failed(new LockNotAcquiredError({ key, reason: why.refused, waited: why.waited }));
    return;
  }
  listener.refused(refusal);
}
