import { aboutKey, DatabaseError, LockNotAcquiredError } from "../contract/errors.ts";
import type { LockMode } from "../contract/locker.ts";
import { sharedName } from "../postgres/application-name.ts";
import { hasRoom, type Pool } from "../postgres/driver.ts";
import { statementDeadline } from "../postgres/session.ts";
import { freeing, joining, proving, taking } from "../postgres/sql-shared.ts";
import { elapsedSince, type Instant, within } from "../runtime/clock.ts";
import { FencingTokens } from "./fencing-tokens.ts";
import type { GoneListener, Grant, LockRequest, Refusal } from "./grant.ts";
import { believable, ttlClassOf } from "./server-ttl.ts";
import { type Carried, leavesNothing, SharedSession, type SharedSessionOptions } from "./shared-session.ts";
import type { Done, Outcome } from "./statement-batches.ts";

export interface SharedSessionsOptions {
  readonly pool: Pool;
  readonly namespace: number;
  readonly connWaitTimeout: number;
  readonly pooler: "refuse" | "session";
  readonly ttlEnforcement: "client" | "server";
  readonly maxLocksPerSession: number;
  readonly recovery: SharedSessionOptions["recovery"];
}

/** A lock that one of the sessions has in the server, or is about to have, or to have had. */
interface Entry {
  readonly id: bigint;
  readonly key: string;
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
  readonly #tokens: FencingTokens;
  /** Those that take no more locks, and are not back in the pool yet. */
  readonly #leaving = new Set<SharedSession>();
  readonly #enforced: boolean;

  constructor(options: SharedSessionsOptions) {
    this.#options = options;
    this.#enforced = options.ttlEnforcement === "server";
    const { pool, namespace, connWaitTimeout } = options;
    const connectWithin = Number.isFinite(connWaitTimeout) ? connWaitTimeout : statementDeadline;
    this.#tokens = new FencingTokens({ pool, namespace, connectWithin });
  }

  /**
   * @param isAgain whether it was asked before, on a session that had gone before it was its turn
   * @throws {LockNotAcquiredError} `"connection-timeout"` @throws {LockTableFullError}
   * @throws {StandbyError} @throws {PoolerDetectedError} @throws {DatabaseError}
   */
  tryLock(request: LockRequest, isAgain = false): Promise<Grant | Refusal> {
    const entry = this.#entries.get(request.id);
    return entry === undefined ? this.#take(request, isAgain) : this.#takeBeside(entry, request, isAgain);
  }

  /** Whether a session has room, or a connection of the pool is to be had without a queue. */
  canTry(): boolean {
    for (const session of this.#sessions) {
      if (session.isOpen && session.load < this.#options.maxLocksPerSession) return true;
    }
    const { pool } = this.#options;
    return leavesNothing(pool) || hasRoom(pool);
  }

  /** As {@link tryLock}: what is asked at the same time goes out together anyway. */
  pollLock(request: LockRequest): Promise<Grant | Refusal> {
    return this.tryLock(request);
  }

  async #takeBeside(entry: Entry, request: LockRequest, isAgain: boolean): Promise<Grant | Refusal> {
    if (entry.settling !== undefined) {
      await entry.settling.then(nothing, nothing);
      return request.abandoned ? { refused: "abandoned" } : this.tryLock(request, isAgain);
    }
    if (request.mode === "exclusive" || entry.mode === "exclusive") return { refused: "held" };
    return this.#join(entry, request, isAgain);
  }

  /** Gives back the sessions that carry nothing. Never rejects. */
  async close(): Promise<void> {
    const sessions = [...this.#sessions, ...this.#leaving];
    await Promise.all([this.#tokens.close(), ...sessions.map((session) => session.close())]);
  }

  async #take(request: LockRequest, isAgain: boolean): Promise<Grant | Refusal> {
    const { key, id, mode, ttl } = request;
    const session = this.#withRoom(ttl);
    const entry: Entry = { id, key, mode, session, holders: [], settling: undefined };
    const lock = new SharedLock(this, entry, this.#enforced);
    session.carry(lock, ttl);
    this.#entries.set(id, entry);
    const asking = session.ask(taking[mode], request, request);
    entry.settling = asking;
    let outcome: Awaited<typeof asking>;
    try {
      outcome = await asking;
    } catch (error) {
      this.#forget(entry, lock);
      throw error;
    }
    if (isDone(outcome) && outcome.answer === "t") {
      entry.settling = undefined;
      return await this.#complete(lock.granted(), outcome, request);
    }
    this.#forget(entry, lock);
    return this.#refused(request, outcome, isAgain);
  }

  /** One more holder of a shared lock. Nothing is taken, but the session is proved. A writer that waits is not passed. */
  async #join(entry: Entry, request: LockRequest, isAgain: boolean): Promise<Grant | Refusal> {
    const lock = new SharedLock(this, entry, this.#enforced);
    entry.holders = [...entry.holders, lock];
    entry.session.carry(lock, request.ttl);
    const leave = (): Promise<void> => lock.release().catch(nothing);
    try {
      const outcome = await entry.session.ask(joining, request, request);
      if (isDone(outcome) && outcome.answer === "t") {
        return await this.#complete(lock.granted(), outcome, request);
      }
      await leave();
      return await this.#refused(request, outcome, isAgain);
    } catch (error) {
      await leave();
      throw error;
    }
  }

  /** If nothing was sent for it, because its session had gone before or others had waited longer for one, it is asked once more. */
  async #refused(request: LockRequest, outcome: Outcome, isAgain: boolean): Promise<Grant | Refusal> {
    const isLost = outcome === "not sent";
    if (!isLost && !(typeof outcome === "object" && "refused" in outcome && outcome.isEarly && !isAgain)) {
      return refusal(request, outcome);
    }
    if (request.abandoned) return { refused: "abandoned" };
    if (!isAgain) return await this.tryLock(request, true);
    const cause = new Error("two sessions ended before it was asked for");
    throw new DatabaseError({ doing: "Taking the lock", key: request.key, cause });
  }

  /** Draws the token of a lock that is to have one. If there is none to be had, the lock goes back. */
  async #complete(lock: SharedLock, done: Done, request: LockRequest): Promise<SharedLock> {
    if (request.fencing) {
      try {
        lock.fencingToken = await this.#tokens.draw(lock.server);
      } catch (error) {
        await lock.release().catch(nothing);
        throw aboutKey(error, request.key);
      }
    }
    return await this.#inTime(lock, done, request);
  }

  /** A lock whose TTL has passed by the time of the answer was never held: it goes back, as if there had been no answer. */
  #inTime(lock: SharedLock, { sentAt }: Done, { key, ttl }: LockRequest): SharedLock | Promise<never> {
    if (elapsedSince(sentAt) < lock.believable(ttl)) return lock;
    const cause = new Error(`no answer within ${Math.round(ttl)} ms`);
    const late = new DatabaseError({ doing: "Taking the lock", key, cause });
    return lock.release().then(
      () => Promise.reject(late),
      () => Promise.reject(late),
    );
  }

  /** @throws {DatabaseError} it was no longer held, as far as is known */
  async release(entry: Entry, lock: SharedLock): Promise<void> {
    const { key, mode, session, holders } = entry;
    if (holders.length > 1) {
      entry.holders = holders.filter((each) => each !== lock);
      session.drop(lock);
      return;
    }
    const asking = session.ask(freeing[mode], entry);
    entry.settling = asking;
    try {
      const done = await asking;
      if (isDone(done) && done.answer !== "0") return;
      const error = new DatabaseError({
        doing: "Giving back the lock",
        key,
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

  #withRoom(ttl: number): SharedSession {
    const ttlClass = this.#enforced ? ttlClassOf(ttl) : undefined;
    const { pool, namespace, connWaitTimeout, pooler, maxLocksPerSession, recovery } = this.#options;
    for (const session of this.#sessions) {
      const gone = session.goneBecause;
      // The server may have ended it, and the news not be here yet.
      if (gone !== undefined) session.destroy(gone);
      else if (session.ttlClass === ttlClass && session.load < maxLocksPerSession) return session;
    }
    const session = new SharedSession({
      pool,
      connWaitTimeout,
      trustPooler: pooler === "session",
      enforced: this.#enforced,
      ttlClass,
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
  fencingToken: bigint | undefined;
  #releasing: Promise<void> | undefined;

  constructor(sessions: SharedSessions, entry: Entry, lapses: boolean) {
    this.#sessions = sessions;
    this.#entry = entry;
    this.lapses = lapses;
  }

  granted(): this {
    const { holders } = this.#entry;
    if (holders.length === 0) this.#entry.holders = [this];
    else if (!holders.includes(this)) this.#entry.holders = [...holders, this];
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

  /** Which server has granted it. */
  get server(): string {
    return this.#entry.session.server;
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
    const { session } = this.#entry;
    session.carry(this, ttl);
    try {
      const done = await within(deadline, session.ask(proving, this.#entry));
      if (isDone(done)) return done.sentAt;
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

function isDone(outcome: Outcome): outcome is Done {
  return typeof outcome === "object" && "answer" in outcome;
}

/** @throws {LockNotAcquiredError} `"connection-timeout"` */
function refusal({ key }: LockRequest, outcome: Exclude<Outcome, "not sent">): Refusal {
  if (outcome === "not wanted") return { refused: "abandoned" };
  if (!("refused" in outcome)) return { refused: "held" };
  if (outcome.refused === "recovering") return outcome;
  const { refused, waited } = outcome;
  if (refused === "pool-saturated") return { refused, waited };
  throw new LockNotAcquiredError({ key, reason: refused, waited });
}
