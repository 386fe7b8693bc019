import { aboutKey, DatabaseError, LockerError } from "../contract/errors.ts";
import { sharedName } from "../postgres/application-name.ts";
import { hasRoom, leavesNothing, type Pool } from "../postgres/driver.ts";
import { boundedWait } from "../postgres/session.ts";
import { freeing, joining, type OperationAnswer } from "../postgres/sql-shared.ts";
import { elapsedSince, type Instant, soon, withinTtl } from "../runtime/clock.ts";
import { reliableTime } from "../runtime/reliance.ts";
import { drawing, FencingTokens } from "./fencing-tokens.ts";
import { type LockRequest, type TryListener, tell, type WantedLock } from "./grant.ts";
import { KeyAnswers } from "./key-answers.ts";
import { ttlInServer } from "./least-ttl.ts";
import { ttlClassOf } from "./server-ttl.ts";
import { chainOf, refuse, SharedLock, type SharedLocks, states } from "./shared-lock.ts";
import { SharedSession, type SharedSessionOptions } from "./shared-session.ts";
import { askForProof, type Undone } from "./task.ts";
import { noLongerHeld } from "./trust.ts";

export interface SharedSessionsOptions {
  readonly pool: Pool;
  readonly namespace: number;
  readonly connWaitTimeout: number;
  readonly pooler: "refuse" | "session";
  readonly ttlEnforcement: "client" | "server";
  readonly maxLocksPerSession: number;
  /** Whether the keys of the locks are told to whoever asks. */
  readonly tellKeys: boolean;
  readonly recovery: SharedSessionOptions["recovery"];
  readonly events: SharedSessionOptions["events"];
}

/**
 * A few sessions that carry all the locks of a locker. Each is filled before another is opened, and is given back when it has been empty
 * for a while.
 *
 * The server would let a session take its own lock again. So a lock that one of the sessions has is not asked for: the registry here
 * decides who is refused.
 */
export class SharedSessions implements SharedLocks {
  readonly #options: SharedSessionsOptions;
  /** The first of each lock's chain: see {@link SharedLock.beside}. */
  readonly #locks = new Map<bigint, SharedLock>();
  readonly #sessions = new Set<SharedSession>();
  readonly #tokens: FencingTokens;
  /** Sessions that take no more locks, but are not back in the pool yet. */
  readonly #leaving = new Set<SharedSession>();
  readonly enforced: boolean;
  readonly #keyAnswers: KeyAnswers | undefined;

  constructor(options: SharedSessionsOptions) {
    this.#options = options;
    this.enforced = options.ttlEnforcement === "server";
    const { pool, namespace, connWaitTimeout } = options;
    const connectWithin = boundedWait(connWaitTimeout);
    if (options.tellKeys) this.#keyAnswers = new KeyAnswers({ pool, namespace });
    this.#tokens = new FencingTokens({ pool, namespace, connectWithin });
  }

  /**
   * Tries once. A failure is a {@link LockNotAcquiredError} with the reason `"connection-timeout"`, a {@link LockTableFullError},
   * {@link StandbyError}, {@link PoolerDetectedError} or {@link DatabaseError}.
   */
  tryLock(request: LockRequest, listener: TryListener<SharedLock>): void {
    const { wanted } = request;
    const ttlClass = this.enforced ? ttlClassOf(ttlInServer(wanted)) : undefined;
    const first = this.#locks.get(wanted.id);
    if (first === undefined) {
      this.#ask(new SharedLock(this.#withRoom(ttlClass), request, listener), wanted, first);
      return;
    }
    for (const lock of chainOf(first)) {
      if (!lock.isSettling) continue;
      this.#tryWhenSettled(lock, request, listener);
      return;
    }
    if (wanted.mode === "exclusive" || first.mode === "exclusive") {
      listener.refused({ refused: "held" });
      return;
    }
    for (const { session } of chainOf(first)) {
      if (session.ttlClass !== ttlClass) continue;
      // Nothing is taken, but the session is proved. A writer that waits is not overtaken.
      const lock = new SharedLock(session, request, listener);
      lock.state = states.joining;
      lock.operation = joining;
      this.#ask(lock, wanted, first);
      return;
    }
    this.#ask(new SharedLock(this.#withRoom(ttlClass), request, listener), wanted, first);
  }

  #tryWhenSettled(lock: SharedLock, request: LockRequest, listener: TryListener<SharedLock>): void {
    lock.whenSettled ??= [];
    lock.whenSettled.push(() => {
      if (request.abandoned) listener.refused({ refused: "abandoned" });
      else this.tryLock(request, listener);
    });
  }

  /** Whether a session has room, or the pool has a connection without a queue. */
  canTry(): boolean {
    for (const session of this.#sessions) {
      if (session.isOpen && session.load < this.#options.maxLocksPerSession) return true;
    }
    const { pool } = this.#options;
    return leavesNothing(pool) || hasRoom(pool);
  }

  /** Does what {@link tryLock} does: tries at the same time go out together anyway. */
  pollLock(request: LockRequest, listener: TryListener<SharedLock>): void {
    this.tryLock(request, listener);
  }

  /** How many sessions there are, or are about to be. */
  get size(): number {
    return this.#sessions.size + this.#leaving.size;
  }

  /** Gives the sessions back that carry nothing. Never rejects. */
  async close(): Promise<void> {
    const sessions = [...this.#sessions, ...this.#leaving];
    await Promise.all([this.#tokens.close(), ...sessions.map((session) => session.close())]);
  }

  /** @param first the first of the lock's chain */
  #ask(lock: SharedLock, wanted: WantedLock, first: SharedLock | undefined): void {
    const { session } = lock;
    lock.beside = first;
    this.#locks.set(wanted.id, lock);
    session.carry(lock, wanted.holdAtLeast === undefined ? wanted.ttl : ttlInServer(wanted));
    session.ask(lock);
  }

  taken(lock: SharedLock, answer: OperationAnswer, sentAt: Instant): void {
    const { request, listener } = lock;
    lock.request = undefined;
    lock.listener = undefined;
    if (request === undefined || listener === undefined) return;
    if (answer !== "t") {
      this.#leave(lock);
      listener.refused({ refused: "held" });
      return;
    }
    lock.grantedAt = sentAt;
    if (lock.state.is !== "gone") this.#settle(lock, states.held);
    if (request.wanted.fencing) tell(listener, this.#fenced(lock, request));
    else listener.granted(lock);
  }

  /**
   * Draws the fencing token of a lock. If the rest of its TTL passes before that is done, the lock goes back: nobody could rely on it any
   * more, but other locks on its session would keep it in the server.
   */
  async #fenced(lock: SharedLock, { wanted: { key, ttl } }: LockRequest): Promise<SharedLock> {
    const { grantedAt } = lock;
    const left = (): number => reliableTime(ttl, this.enforced) - elapsedSince(grantedAt);
    try {
      const { session } = lock;
      const drawn = this.#tokens.draw(session.server, () => askForProof(session, lock));
      lock.fencingToken = await withinTtl(left, drawn);
      // For the token, the session may have been proved again.
      lock.grantedAt = session.provenAt;
      return lock;
    } catch (error) {
      await lock.release().catch(() => {});
      const told = error instanceof LockerError ? error : new DatabaseError({ doing: drawing, cause: error });
      throw aboutKey(told, key);
    }
  }

  /** A lock for which nothing was sent, because its session ended first or others had waited longer for one, is asked for once more. */
  notTaken(lock: SharedLock, why: Undone): void {
    const { request, listener } = lock;
    lock.request = undefined;
    lock.listener = undefined;
    if (request === undefined || listener === undefined) return;
    this.#leave(lock);
    const isLost = why === "not sent";
    if (
      !isLost &&
      !(typeof why === "object" && why.refused !== "recovering" && why.isEarly && !request.isRepeated)
    ) {
      refuse(request, listener, why);
      return;
    }
    if (request.abandoned) {
      listener.refused({ refused: "abandoned" });
    } else if (!request.isRepeated) {
      request.isRepeated = true;
      this.tryLock(request, listener);
    } else {
      const cause = new Error("two sessions in a row ended before the lock was asked for");
      listener.failed(new DatabaseError({ doing: "Taking the lock", key: request.wanted.key, cause }));
    }
  }

  takingFailed(lock: SharedLock, error: unknown): void {
    const { listener } = lock;
    lock.request = undefined;
    lock.listener = undefined;
    this.#leave(lock);
    listener?.failed(error);
  }

  /** Forgets a lock that was not granted. The lock that it joined may have no other holder by now. */
  #leave(lock: SharedLock): void {
    if (lock.state.is === "joining") lock.release().catch(() => {});
    else this.#forget(lock);
  }

  free(lock: SharedLock): void {
    if (lock.mode === "shared" && this.#isShared(lock)) {
      // The server has the lock once for all of them.
      this.#forget(lock);
      lock.released();
      return;
    }
    if (lock.state.is !== "gone") lock.state = states.freeing;
    lock.operation = freeing[lock.mode];
    lock.session.ask(lock);
  }

  /** Whether somebody else holds the lock on the same session. */
  #isShared(lock: SharedLock): boolean {
    for (const other of chainOf(this.#locks.get(lock.id))) {
      if (other !== lock && other.session === lock.session) return true;
    }
    return false;
  }

  freed(lock: SharedLock, answer: OperationAnswer): void {
    if (answer === "1") {
      this.#forget(lock);
      lock.released();
      return;
    }
    const cause = noLongerHeld();
    const error = new DatabaseError({ doing: "Giving back the lock", key: lock.key, cause });
    // So it may have lost the others as well.
    lock.session.destroy(error);
    this.freeingFailed(lock, error);
  }

  freeingFailed(lock: SharedLock, error: unknown): void {
    this.#forget(lock);
    lock.released(error);
  }

  #forget(lock: SharedLock): void {
    this.#unlist(lock);
    lock.session.drop(lock);
    if (lock.state.is !== "gone") this.#settle(lock, states.gone);
  }

  #settle(lock: SharedLock, state: SharedLock["state"]): void {
    lock.state = state;
    const waiting = lock.whenSettled;
    if (waiting === undefined) return;
    lock.whenSettled = undefined;
    for (const settled of waiting) soon(settled);
  }

  /** Takes a lock out of the registry. A second call does nothing. */
  #unlist(lock: SharedLock): void {
    if (lock.state.is === "gone") return;
    const { id, beside } = lock;
    lock.beside = undefined;
    // An exclusive lock is alone in its chain.
    const first = lock.mode === "exclusive" ? lock : this.#locks.get(id);
    if (first === lock) {
      if (beside === undefined) this.#locks.delete(id);
      else this.#locks.set(id, beside);
      return;
    }
    for (const each of chainOf(first)) if (each.beside === lock) each.beside = beside;
  }

  #withRoom(ttlClass: number | undefined): SharedSession {
    const { pool, namespace, connWaitTimeout, pooler, maxLocksPerSession, recovery, events } = this.#options;
    for (const session of this.#sessions) {
      if (session.takes(ttlClass, maxLocksPerSession)) return session;
    }
    const session = new SharedSession({
      pool,
      connWaitTimeout,
      trustPooler: pooler === "session",
      enforced: this.enforced,
      ttlClass,
      name: sharedName(namespace),
      recovery,
      events,
      keyAnswers: this.#keyAnswers,
      locks: this,
    });
    this.#sessions.add(session);
    return session;
  }

  ended(session: SharedSession, cause: Error | undefined): void {
    this.#sessions.delete(session);
    if (cause === undefined) {
      this.#leaving.add(session);
      void session.close().then(() => this.#leaving.delete(session));
      return;
    }
    const lost = this.carriedBy(session);
    // The registry first, then the holders: their listeners run code of their own.
    for (const lock of lost) {
      this.#unlist(lock);
      this.#settle(lock, { is: "gone", cause });
    }
    for (const lock of lost) lock.lost(cause);
  }

  overdue(session: SharedSession): void {
    for (const lock of this.carriedBy(session)) lock.overdue();
  }

  carriedBy(session: SharedSession): SharedLock[] {
    const carried: SharedLock[] = [];
    for (const first of this.#locks.values()) {
      for (const lock of chainOf(first)) if (lock.session === session) carried.push(lock);
    }
    return carried;
  }
}
