import { aboutKey, DatabaseError, LockNotAcquiredError } from "../contract/errors.ts";
import { sharedName } from "../postgres/application-name.ts";
import { hasRoom, type Pool } from "../postgres/driver.ts";
import { boundedWait } from "../postgres/session.ts";
import { freeing, joining, taking } from "../postgres/sql-shared.ts";
import { elapsedSince } from "../runtime/clock.ts";
import { FencingTokens } from "./fencing-tokens.ts";
import type { Grant, LockRequest, Refusal } from "./grant.ts";
import { believableOf, ttlClassOf } from "./server-ttl.ts";
import { type Entry, isDone, SharedLock, withThoseBeside } from "./shared-lock.ts";
import { leavesNothing, SharedSession, type SharedSessionOptions } from "./shared-session.ts";
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
    const connectWithin = boundedWait(connWaitTimeout);
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

  async #takeBeside(first: Entry, request: LockRequest, isAgain: boolean): Promise<Grant | Refusal> {
    for (const { settling } of withThoseBeside(first)) {
      if (settling === undefined) continue;
      await settling.then(nothing, nothing);
      return request.abandoned ? { refused: "abandoned" } : this.tryLock(request, isAgain);
    }
    if (request.mode === "exclusive" || first.mode === "exclusive") return { refused: "held" };
    const ttlClass = this.#classOf(request.ttl);
    for (const entry of withThoseBeside(first)) {
      if (entry.session.ttlClass === ttlClass) return this.#join(entry, request, isAgain);
    }
    return this.#take(request, isAgain);
  }

  /** Gives back the sessions that carry nothing. Never rejects. */
  async close(): Promise<void> {
    const sessions = [...this.#sessions, ...this.#leaving];
    await Promise.all([this.#tokens.close(), ...sessions.map((session) => session.close())]);
  }

  async #take(request: LockRequest, isAgain: boolean): Promise<Grant | Refusal> {
    const { key, id, mode, ttl } = request;
    const session = this.#withRoom(ttl);
    const entry: Entry = {
      id,
      key,
      mode,
      session,
      holders: [],
      settling: undefined,
      beside: this.#entries.get(id),
    };
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
    if (elapsedSince(sentAt) < believableOf(lock, ttl)) return lock;
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
    this.#unlist(entry);
  }

  /** Does nothing the second time. */
  #unlist(entry: Entry): void {
    const { id, beside } = entry;
    const first = this.#entries.get(id);
    if (first === entry) {
      if (beside === undefined) this.#entries.delete(id);
      else this.#entries.set(id, beside);
      return;
    }
    for (const each of withThoseBeside(first)) if (each.beside === entry) each.beside = beside;
  }

  #classOf(ttl: number): number | undefined {
    return this.#enforced ? ttlClassOf(ttl) : undefined;
  }

  #withRoom(ttl: number): SharedSession {
    const ttlClass = this.#classOf(ttl);
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
    for (const entry of lost) this.#unlist(entry);
    for (const { holders } of lost) for (const lock of holders) lock.lost(cause);
  }

  #carriedBy(session: SharedSession): Entry[] {
    const entries = [...this.#entries.values()].flatMap((first) =>
      first.beside === undefined ? first : [...withThoseBeside(first)],
    );
    return entries.filter((entry) => entry.session === session);
  }
}

function nothing(): void {}

/** @throws {LockNotAcquiredError} `"connection-timeout"` */
function refusal({ key }: LockRequest, outcome: Exclude<Outcome, "not sent">): Refusal {
  if (outcome === "not wanted") return { refused: "abandoned" };
  if (!("refused" in outcome)) return { refused: "held" };
  if (outcome.refused === "recovering") return outcome;
  const { refused, waited } = outcome;
  if (refused === "pool-saturated") return { refused, waited };
  throw new LockNotAcquiredError({ key, reason: refused, waited });
}
