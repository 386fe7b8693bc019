import { DatabaseError, LockNotAcquiredError } from "../contract/errors.ts";
import type { LockMode } from "../contract/locker.ts";
import { sharedName } from "../postgres/application-name.ts";
import { hasRoom, type Pool } from "../postgres/driver.ts";
import type { NoSession } from "../postgres/reservation.ts";
import { freeing, joining, proving, taking } from "../postgres/sql-shared.ts";
import { elapsedSince, type Instant, within } from "../runtime/clock.ts";
import type { GoneListener, Grant, LockRequest, Refusal } from "./grant.ts";
import type { RecoveryGrace } from "./recovery-grace.ts";
import { believable } from "./server-ttl.ts";
import { type Carried, SharedSession } from "./shared-session.ts";
import type { Done } from "./statement-batches.ts";

export interface SharedSessionsOptions {
  readonly pool: Pool;
  readonly namespace: number;
  readonly connWaitTimeout: number;
  readonly pooler: "refuse" | "session";
  readonly ttlEnforcement: "client" | "server";
  readonly maxLocksPerSession: number;
  readonly recovery: RecoveryGrace | undefined;
}

/** A lock that one of the sessions has in the server, or is about to have, or to have had. */
interface Entry {
  readonly id: bigint;
  readonly mode: LockMode;
  readonly session: SharedSession;
  /** More than one where it is shared: the server has it once. */
  holders: readonly SharedLock[];
  /** Settles when it is known whether the server has it; `undefined` while it does. */
  settling: Promise<unknown> | undefined;
}

/**
 * A few sessions that carry all the locks of a locker. Each is filled before another is opened, and given back when it has
 * been empty for a while.
 *
 * The server lets a session take its own lock again. So nothing is asked of it for a lock that one of the sessions has: the
 * books say who is refused.
 */
export class SharedSessions {
  readonly #options: SharedSessionsOptions;
  readonly #entries = new Map<bigint, Entry>();
  readonly #sessions = new Set<SharedSession>();
  /** Those that take no more locks, and are not back in the pool yet. */
  readonly #leaving = new Set<SharedSession>();
  readonly #enforced: boolean;

  constructor(options: SharedSessionsOptions) {
    this.#options = options;
    this.#enforced = options.ttlEnforcement === "server";
  }

  /**
   * @throws {LockNotAcquiredError} `"connection-timeout"` @throws {LockTableFullError}
   * @throws {StandbyError} @throws {PoolerDetectedError} @throws {DatabaseError}
   */
  tryLock(request: LockRequest): Promise<Grant | Refusal> {
    const entry = this.#entries.get(request.id);
    return entry === undefined ? this.#take(request) : this.#takeBeside(entry, request);
  }

  /** Whether a session has room, or a connection of the pool is to be had without a queue. */
  canTry(): boolean {
    for (const session of this.#sessions) {
      if (session.isOpen && session.load < this.#options.maxLocksPerSession) return true;
    }
    return hasRoom(this.#options.pool);
  }

  /** As {@link tryLock}: what is asked at the same time goes out together anyway. */
  pollLock(request: LockRequest): Promise<Grant | Refusal> {
    return this.tryLock(request);
  }

  async #takeBeside(entry: Entry, request: LockRequest): Promise<Grant | Refusal> {
    if (entry.settling !== undefined) {
      await entry.settling.then(nothing, nothing);
      return request.abandoned ? { refused: "abandoned" } : this.tryLock(request);
    }
    if (request.mode === "exclusive" || entry.mode === "exclusive") return { refused: "held" };
    return this.#join(entry, request);
  }

  /** Gives back the sessions that carry nothing. Never rejects. */
  async close(): Promise<void> {
    await Promise.all([...this.#sessions, ...this.#leaving].map((session) => session.close()));
  }

  async #take(request: LockRequest): Promise<Grant | Refusal> {
    const { id, mode, ttl } = request;
    const session = this.#withRoom();
    const entry: Entry = { id, mode, session, holders: [], settling: undefined };
    const lock = new SharedLock(this, entry, this.#enforced);
    session.carry(lock, ttl);
    this.#entries.set(id, entry);
    const asking = session.ask(taking[mode], id, request);
    entry.settling = asking;
    let done: Awaited<typeof asking>;
    try {
      done = await asking;
    } catch (error) {
      this.#forget(entry, lock);
      throw error;
    }
    if (done === "not wanted" || "refused" in done || done.answer !== "t") {
      this.#forget(entry, lock);
      return refusal(request, done);
    }
    entry.settling = undefined;
    return this.#inTime(lock.granted(done, request), done, request);
  }

  /** One more holder of a shared lock. Nothing is taken; but the session is proved, and a token drawn. A writer that waits is not passed. */
  async #join(entry: Entry, request: LockRequest): Promise<Grant | Refusal> {
    const lock = new SharedLock(this, entry, this.#enforced);
    entry.holders = [...entry.holders, lock];
    entry.session.carry(lock, request.ttl);
    const leave = (): Promise<void> => lock.release().catch(nothing);
    try {
      const done = await entry.session.ask(joining, entry.id, request);
      if (done !== "not wanted" && !("refused" in done) && done.answer === "t") {
        return await this.#inTime(lock.granted(done, request), done, request);
      }
      await leave();
      return refusal(request, done);
    } catch (error) {
      await leave();
      throw error;
    }
  }

  /** A lock whose TTL has passed by the time of the answer was never held: it goes back, as if there had been no answer. */
  #inTime(lock: SharedLock, { sentAt }: Done, { ttl }: LockRequest): SharedLock | Promise<never> {
    if (elapsedSince(sentAt) < lock.believable(ttl)) return lock;
    const cause = new Error(`no answer within ${Math.round(ttl)} ms`);
    const late = new DatabaseError({ doing: "Taking a lock", cause });
    return lock.release().then(
      () => Promise.reject(late),
      () => Promise.reject(late),
    );
  }

  /** @throws {DatabaseError} it was no longer held, as far as is known */
  async release(entry: Entry, lock: SharedLock): Promise<void> {
    const { id, mode, session, holders } = entry;
    if (holders.length > 1) {
      entry.holders = holders.filter((each) => each !== lock);
      session.drop(lock);
      return;
    }
    const asking = session.ask(freeing[mode], id);
    entry.settling = asking;
    try {
      const done = await asking;
      if (typeof done === "object" && "answer" in done && done.answer !== "0") return;
      const error = new DatabaseError({
        doing: "Giving a lock back",
        cause: new Error("the session no longer held it"),
      });
      // Nor, then, is it sure to have the others.
      session.destroy(error);
      throw error;
    } finally {
      this.#forget(entry, lock);
    }
  }

  #forget(entry: Entry, lock: SharedLock): void {
    entry.holders = entry.holders.filter((each) => each !== lock);
    entry.session.drop(lock);
    if (this.#entries.get(entry.id) === entry) this.#entries.delete(entry.id);
  }

  #withRoom(): SharedSession {
    const { pool, namespace, connWaitTimeout, pooler, maxLocksPerSession, recovery } = this.#options;
    for (const session of this.#sessions) {
      const gone = session.goneBecause;
      // The server may have ended it, and the news not be here yet.
      if (gone !== undefined) session.destroy(gone);
      else if (session.load < maxLocksPerSession) return session;
    }
    const session = new SharedSession({
      pool,
      connWaitTimeout,
      trustPooler: pooler === "session",
      enforced: this.#enforced,
      name: sharedName(namespace),
      recovery,
      onEnd: (ended, cause) => this.#ended(ended, cause),
      onOverdue: (silent) => {
        for (const { holders } of this.#carriedBy(silent)) for (const lock of holders) lock.overdue();
      },
    });
    this.#sessions.add(session);
    return session;
  }

  #ended(session: SharedSession, cause: Error | undefined): void {
    this.#sessions.delete(session);
    if (cause === undefined) {
      this.#leaving.add(session);
      void session.close().then(() => this.#leaving.delete(session));
      return;
    }
    const lost = this.#carriedBy(session);
    // First the books, then the holders: their listeners are code of theirs.
    for (const { id } of lost) this.#entries.delete(id);
    for (const { holders } of lost) for (const lock of holders) lock.lost(cause);
  }

  #carriedBy(session: SharedSession): Entry[] {
    return [...this.#entries.values()].filter((entry) => entry.session === session);
  }
}

class SharedLock implements Grant, Carried {
  readonly #sessions: SharedSessions;
  readonly #entry: Entry;
  #listener: GoneListener | undefined;
  readonly lapses: boolean;
  carriedFor: number | undefined;
  provenWithin: number | undefined;
  #lostBecause: Error | undefined;
  #fencingToken: bigint | undefined;
  #releasing: Promise<void> | undefined;

  constructor(sessions: SharedSessions, entry: Entry, lapses: boolean) {
    this.#sessions = sessions;
    this.#entry = entry;
    this.lapses = lapses;
  }

  /** The token is of the statement, and for those alone that asked for one. */
  granted({ token }: Done, { fencing }: LockRequest): this {
    const { holders } = this.#entry;
    if (holders.length === 0) this.#entry.holders = [this];
    else if (!holders.includes(this)) this.#entry.holders = [...holders, this];
    this.#fencingToken = token === null || !fencing ? undefined : BigInt(token);
    return this;
  }

  /** Its session has gone. */
  lost(cause: Error): void {
    this.#lostBecause = cause;
    this.#listener?.gone(cause);
  }

  overdue(): void {
    this.#listener?.overdue();
  }

  get provenAt(): Instant {
    return this.#entry.session.provenAt;
  }

  get fencingToken(): bigint | undefined {
    return this.#fencingToken;
  }

  get goneBecause(): Error | undefined {
    return this.#lostBecause ?? this.#entry.session.goneBecause;
  }

  believable(ttl: number): number {
    return this.lapses ? believable(ttl) : ttl;
  }

  keepProven(ttl: number | undefined): void {
    this.#entry.session.keepProven(this, ttl);
  }

  onGone(listener: GoneListener): void {
    const gone = this.#lostBecause;
    if (gone === undefined) this.#listener = listener;
    else queueMicrotask(() => listener.gone(gone));
  }

  async refresh(ttl: number, deadline: number): Promise<Instant> {
    const { session, id } = this.#entry;
    session.carry(this, ttl);
    try {
      const done = await within(deadline, session.ask(proving, id));
      if (typeof done === "object" && "sentAt" in done) return done.sentAt;
      throw new Error("the session was not to be had");
    } catch (error) {
      // Its holder believes no more. The session may well live, and the others on it.
      this.release().catch(nothing);
      throw error;
    }
  }

  /** Once, whoever asks: a refresh without an answer, or the holder. By then, the lock in the server may be another's. */
  release(): Promise<void> {
    this.#releasing ??= this.#sessions.release(this.#entry, this);
    return this.#releasing;
  }
}

function nothing(): void {}

/** @throws {LockNotAcquiredError} `"connection-timeout"` */
function refusal({ key }: LockRequest, done: Done | NoSession | "not wanted"): Refusal {
  if (done === "not wanted") return { refused: "abandoned" };
  if (!("refused" in done)) return { refused: "held" };
  if (done.refused === "recovering") return done;
  const { refused, waited } = done;
  if (refused === "pool-saturated") return { refused, waited };
  throw new LockNotAcquiredError({ key, reason: refused, waited });
}
