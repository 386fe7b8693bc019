import { LockNotAcquiredError } from "../contract/errors.ts";
import type { LockMode } from "../contract/locker.ts";
import { joining, type Operation, type OperationAnswer, taking } from "../postgres/sql-shared.ts";
import { type Instant, soon, within } from "../runtime/clock.ts";
import type { GoneListener, Grant, LockRequest, Refusal, ReleaseListener, TryListener } from "./grant.ts";
import type { Carried, SharedSession } from "./shared-session.ts";
import { askForProof, type Task, type Undone } from "./task.ts";

/** Manages the locks of several sessions. Only it changes the state of a lock. */
export interface SharedLocks {
  /** Whether the server enforces TTLs. */
  readonly enforced: boolean;
  taken(lock: SharedLock, answer: OperationAnswer, sentAt: Instant): void;
  notTaken(lock: SharedLock, why: Undone): void;
  takingFailed(lock: SharedLock, error: unknown): void;
  /** The holder gives the lock back, and is told the outcome by {@link SharedLock.released}. */
  free(lock: SharedLock): void;
  /** The answer to giving a lock back. `undefined`: it was not done. */
  freed(lock: SharedLock, answer: OperationAnswer): void;
  freeingFailed(lock: SharedLock, error: unknown): void;
}

/** An attempt at a lock: with a statement of its own, or joining readers who have it already. */
export interface SharedAttempt {
  readonly request: LockRequest;
  readonly listener: TryListener<SharedLock>;
  readonly how: "taking" | "joining";
  /** The first of the lock's chain. */
  readonly first: SharedLock | undefined;
  readonly isAgain: boolean;
}

//   taking ──"t"──▶ held ── released, nobody shares it ──▶ freeing ──answer──▶ gone
//   joining ─"t"──▶ held ── released, somebody does ─────▶ gone
//      └── refused, a fault ──▶ gone             its session ends, from any of them ──▶ gone
type SharedLockState = "taking" | "joining" | "held" | "freeing" | "gone";

/** One holder's lock on a session that carries many, from the attempt to its end. */
export class SharedLock implements Grant, Carried, Task {
  readonly #locks: SharedLocks;
  readonly session: SharedSession;
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  state: SharedLockState;
  /** The same lock held by somebody else, on this session or another. Set only while the lock is in the registry's chain. */
  beside: SharedLock | undefined;
  /** Callers who asked for the same lock while it was being taken or freed. */
  whenSettled: Array<() => void> | undefined;
  provenAt: Instant;
  fencingToken: bigint | undefined;
  goneCause: Error | undefined;
  // The attempt, until its answer.
  request: LockRequest | undefined;
  listener: TryListener<SharedLock> | undefined;
  /** Whether it was asked for once already, on a session that ended before its turn came. */
  readonly isAgain: boolean;
  // The operation under way, or the last one.
  operation: Operation;
  /** Whether that gives the lock back. */
  isFreed: boolean;
  askedAt: number;
  // Only its session writes these.
  carriedFor: number | undefined;
  provenWithin: number | undefined;
  #goneListener: GoneListener | undefined;
  #releaseListeners: ReleaseListener | ReleaseListener[] | undefined;
  #released: { readonly error: unknown } | undefined;

  constructor(
    locks: SharedLocks,
    session: SharedSession,
    { request, listener, how, first, isAgain }: SharedAttempt,
  ) {
    this.#locks = locks;
    this.session = session;
    this.key = request.key;
    this.id = request.id;
    this.mode = request.mode;
    this.state = how;
    this.beside = first;
    this.whenSettled = undefined;
    this.provenAt = never;
    this.fencingToken = undefined;
    this.goneCause = undefined;
    this.request = request;
    this.listener = listener;
    this.isAgain = isAgain;
    this.operation = how === "taking" ? taking[request.mode] : joining;
    this.isFreed = false;
    this.askedAt = 0;
    this.carriedFor = undefined;
    this.provenWithin = undefined;
    this.#goneListener = undefined;
    this.#releaseListeners = undefined;
    this.#released = undefined;
  }

  /** Whether it is unknown at this moment if the server has granted it. */
  get isSettling(): boolean {
    return this.state === "taking" || this.state === "freeing";
  }

  done(answer: OperationAnswer, sentAt: Instant): void {
    if (this.isFreed) this.#locks.freed(this, answer);
    else this.#locks.taken(this, answer, sentAt);
  }

  undone(why: Undone): void {
    if (this.isFreed) this.#locks.freed(this, undefined);
    else this.#locks.notTaken(this, why);
  }

  failed(error: unknown): void {
    if (this.isFreed) this.#locks.freeingFailed(this, error);
    else this.#locks.takingFailed(this, error);
  }

  /** Its session has ended. */
  lost(cause: Error): void {
    this.goneCause = cause;
    this.#goneListener?.gone(cause);
  }

  overdue(): void {
    this.#goneListener?.overdue();
  }

  get lapses(): boolean {
    return this.#locks.enforced;
  }

  get keptAt(): Instant {
    return this.session.provenAt;
  }

  get pid(): number | undefined {
    return this.session.pid;
  }

  get goneBecause(): Error | undefined {
    return this.goneCause ?? this.session.goneBecause;
  }

  keepProven(ttl: number | undefined): void {
    this.session.keepProven(this, ttl);
  }

  onGone(listener: GoneListener): void {
    const gone = this.goneCause;
    if (gone === undefined) this.#goneListener = listener;
    else soon(() => listener.gone(gone));
  }

  async refresh(ttl: number, deadline: number): Promise<Instant> {
    this.session.carry(this, ttl);
    try {
      this.provenAt = await within(deadline, askForProof(this.session, this));
      return this.provenAt;
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
    const others = this.#releaseListeners;
    if (this.#released !== undefined) {
      const { error } = this.#released;
      soon(() => tellReleased(listener, error));
    } else if (others === undefined) {
      this.#releaseListeners = listener;
      this.#locks.free(this);
    } else {
      this.#releaseListeners = [others, listener].flat();
    }
  }

  /** The lock has been given back. @param error it may not have been held any more */
  released(error?: unknown): void {
    this.#released = error === undefined ? released : { error };
    const listeners = this.#releaseListeners;
    if (Array.isArray(listeners)) for (const listener of listeners) tellReleased(listener, error);
    else if (listeners !== undefined) tellReleased(listeners, error);
  }
}

const released = { error: undefined };

/** When a lock was proved that never was. */
const never: Instant = { monotonic: Number.NEGATIVE_INFINITY, wall: Number.NEGATIVE_INFINITY };

function tellReleased(listener: ReleaseListener, error: unknown): void {
  if (error === undefined) listener.freed();
  else listener.notFreed(error);
}

/** All holders' locks with one id, beginning with the first in the registry. */
export function* chainOf(first: SharedLock | undefined): Generator<SharedLock> {
  for (let lock = first; lock !== undefined; lock = lock.beside) yield lock;
}

/** Tells a caller why its lock was not asked for. */
export function refuse(
  { key }: LockRequest,
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
