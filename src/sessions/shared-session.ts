import { toError } from "../contract/caught-error.ts";
import { connectBeside, type OwnSession } from "../postgres/beside.ts";
import { canConnectBeside, leavesNothing, type Pool } from "../postgres/driver.ts";
import type { KeyedLock } from "../postgres/key-message.ts";
import { type NoSession, reserveSession } from "../postgres/reservation.ts";
import { boundedWait, type Session, statementDeadline } from "../postgres/session.ts";
import { closeShared, type OpenSharedAnswer, openShared } from "../postgres/sql-shared.ts";
import { type Instant, soon, unrefed } from "../runtime/clock.ts";
import { debug, isDebugged } from "../runtime/debug-log.ts";
import type { LockEventSource } from "../runtime/lock-event-source.ts";
import type { KeyAnswers } from "./key-answers.ts";
import type { RecoveryGrace } from "./recovery-grace.ts";
import { smallestOfClass, tcpTimeouts } from "./server-ttl.ts";
import { SessionKeepalive } from "./session-keepalive.ts";
import type { SharedLocks } from "./shared-lock.ts";
import { SmallestTtl } from "./smallest-ttl.ts";
import { StatementBatches } from "./statement-batches.ts";
import { askForProof, type Task } from "./task.ts";
import { assertTrusted } from "./trust.ts";

export interface SharedSessionOptions {
  readonly pool: Pool;
  readonly connWaitTimeout: number;
  readonly trustPooler: boolean;
  /** The server ends the session when it has heard nothing for the smallest TTL among its locks. */
  readonly enforced: boolean;
  /** The class of its locks' TTLs: see {@link SharedSession.ttlClass}. */
  readonly ttlClass: number | undefined;
  /** `application_name`. */
  readonly name: string;
  readonly recovery: RecoveryGrace | undefined;
  readonly events: LockEventSource;
  readonly keyAnswers: KeyAnswers | undefined;
  readonly locks: SharedLocks;
}

/** What a session notes of a lock, or of an attempt at one. Only the session writes it. In milliseconds. */
export interface Carried {
  /** The lock's TTL; `undefined` while the session does not carry the lock. */
  carriedFor: number | undefined;
  /** The lock is proved again and again, within a third of this TTL; `undefined`: it is not. */
  provenWithin: number | undefined;
}

/** Milliseconds that a session without locks is kept for the next lock. */
const linger = 500;
/** Milliseconds between two checks whether somebody else wants its connection. */
const courtesy = 10;

/** An open session, and the settings that it had before. */
interface Opened {
  readonly session: Session;
  readonly said: OpenSharedAnswer;
}

//   opening ──▶ open ── empty for a while, close() ──▶ returning ──▶ returned or destroyed
//      │          └── the server, the link, the end of its TTL ──▶ gone, with all that it carries
//      └── no session is available ──▶ gone
type State =
  | { readonly is: "opening"; readonly closeWhenOpen: boolean }
  | { readonly is: "open"; readonly on: Opened }
  | { readonly is: "returning"; readonly on: Opened; readonly returned: Promise<void> }
  | { readonly is: "gone"; readonly on: Opened | undefined };

/**
 * One session that carries many locks: how it is opened, what keeps it alive, and when it goes back or is lost.
 *
 * If the server enforces TTLs, it keeps the session for the smallest TTL among its locks. The session speaks often enough for that; if it
 * can't, all its locks are lost before the server ends it.
 */
export class SharedSession {
  readonly #options: SharedSessionOptions;
  /** Whose locks it carries, and who is told when it ends. */
  readonly locks: SharedLocks;
  /** The class of TTLs that it carries: see `ttlClassOf`. `undefined`: the server enforces no TTL. */
  readonly ttlClass: number | undefined;
  /** The TTLs of what it carries, or is about to. */
  readonly #carried = new SmallestTtl();
  /** The TTLs of the locks that it keeps proven. */
  readonly #kept = new SmallestTtl();
  #state: State = { is: "opening", closeWhenOpen: false };
  /** Set if it is a connection beside the pool. */
  #own: OwnSession | undefined;
  readonly #keepalive = new SessionKeepalive({
    speak: () => askForProof(this),
    lapse: () => this.destroy(new Error("the smallest TTL on the session has passed")),
    overdue: () => this.locks.overdue(this),
  });
  readonly #batches: StatementBatches;
  /** Runs while it is open and empty. */
  #lingering: NodeJS.Timeout | undefined;

  /** Begins to open the session. */
  constructor(options: SharedSessionOptions) {
    this.#options = options;
    this.locks = options.locks;
    this.ttlClass = options.ttlClass;
    this.#batches = new StatementBatches({
      keepalive: this.#keepalive,
      name: options.name,
      sessionTtlWanted: options.ttlClass === undefined ? undefined : () => this.#sessionTtlWanted(),
      onIdle: this.#restIfEmpty,
    });
    void this.#open();
  }

  /**
   * The smallest TTL that it carries. But a lock that was refreshed to a smaller class doesn't shorten the session's TTL, because the first
   * stall would then end the other locks too. Its holder stops relying on it in time all the same.
   */
  #sessionTtlWanted(): number {
    return this.ttlClass === undefined
      ? Number.POSITIVE_INFINITY
      : this.#carried.noLessThan(smallestOfClass(this.ttlClass));
  }

  /** Identifies the server it is on, until that is restarted. */
  get server(): string {
    return this.#on?.said.server ?? "";
  }

  get isOpen(): boolean {
    return this.#state.is === "open";
  }

  get load(): number {
    return this.#carried.size;
  }

  /** When the last statement was sent that showed the session to be alive. */
  get provenAt(): Instant {
    return this.#keepalive.provenAt;
  }

  /** The backend; `undefined` while it isn't known yet. */
  get pid(): number | undefined {
    return this.#on?.said.pid;
  }

  /** Whether it may carry one lock more, of that class. If its TTL has passed, it ends: the server's news of that may be late. */
  takes(ttlClass: number | undefined, most: number): boolean {
    if (this.ttlClass !== ttlClass || this.#carried.size >= most) return false;
    const gone = ttlClass === undefined ? undefined : this.goneBecause;
    if (gone !== undefined) this.destroy(gone);
    return gone === undefined;
  }

  get goneBecause(): Error | undefined {
    const gone = this.#state.is === "opening" ? undefined : this.#state.on?.session.goneBecause;
    // If the server enforces no TTL, the session has none.
    if (gone !== undefined || this.ttlClass === undefined || this.#keepalive.left > 0) return gone;
    // The caller is told that the session is over, and no late answer may take that back.
    const over = new Error("the smallest TTL on its session has passed");
    soon(() => this.destroy(over));
    return over;
  }

  get #on(): Opened | undefined {
    return this.#state.is === "opening" ? undefined : this.#state.on;
  }

  /** Whether it takes no more locks. */
  get #hasEnded(): boolean {
    return this.#state.is === "returning" || this.#state.is === "gone";
  }

  /** Carries a lock, or an attempt at one, from now on, or changes its TTL. */
  carry(lock: Carried, ttl: number): void {
    this.#carried.change(lock.carriedFor, ttl);
    lock.carriedFor = ttl;
    clearTimeout(this.#lingering);
    this.#lingering = undefined;
  }

  /** Proves a lock that it carries again and again, within a third of `ttl` milliseconds; `undefined`: no longer. */
  keepProven(lock: Carried, ttl: number | undefined): void {
    if (ttl === lock.provenWithin || lock.carriedFor === undefined || this.#hasEnded) return;
    this.#kept.change(lock.provenWithin, ttl);
    lock.provenWithin = ttl;
    this.#keepalive.proveWithin(this.#kept.value);
  }

  /** Carries a lock no longer. A second call does nothing. */
  drop(lock: Carried): void {
    if (lock.carriedFor === undefined || this.#hasEnded) return;
    if (lock.provenWithin !== undefined) this.keepProven(lock, undefined);
    this.#carried.change(lock.carriedFor, undefined);
    lock.carriedFor = undefined;
    if (this.#carried.size > 0) return;
    this.#keepalive.rest();
    this.#restIfEmpty();
  }

  /** A session that carries nothing goes back to the pool if that stays so for a while. */
  readonly #restIfEmpty = (): void => {
    if (this.#carried.size > 0 || this.#state.is !== "open") return;
    clearTimeout(this.#lingering);
    // The TTL of the last lock still runs: the session must be back before the server ends it.
    const stay = Math.max(Math.min(linger, this.#keepalive.left / 2), 0);
    this.#lingerUntil(performance.now() + stay);
  };

  /** Goes back at once if somebody queues for a connection of the pool. */
  #lingerUntil(end: number): void {
    const left = end - performance.now();
    const isWanted = this.#own === undefined && (this.#options.pool.waitingCount ?? 0) > 0;
    if (left <= 0 || isWanted) {
      void this.close();
      return;
    }
    const look = this.#own === undefined ? Math.min(left, courtesy) : left;
    this.#lingering = unrefed(setTimeout(() => this.#lingerUntil(end), look));
  }

  /** As {@link StatementBatches.ask}. */
  ask(task: Task): void {
    this.#batches.ask(task);
  }

  /** Ends the session, and with it every lock that it carries. */
  destroy(cause: Error): void {
    this.#on?.session.destroy(cause);
  }

  /** Gives the session back to the pool if it carries nothing, once it is open and nothing is under way. Never rejects. */
  async close(): Promise<void> {
    if (this.#state.is === "opening") {
      this.#state = { is: "opening", closeWhenOpen: true };
      return;
    }
    await this.#batches.idle();
    if (this.#state.is === "open" && this.#carried.size === 0) this.#return(this.#state.on);
    if (this.#state.is === "returning") await this.#state.returned;
  }

  #return(on: Opened): void {
    this.#options.events.sessionClosed("shared", on.said.pid, undefined);
    if (isDebugged) debug("session returned", { pid: on.said.pid });
    // The state changes in this step, so that it takes no more locks.
    const returned = Promise.resolve().then(() => this.#giveBack(on));
    this.#end({ is: "returning", on, returned }, undefined);
  }

  /** Never rejects. */
  async #giveBack({ session, said }: Opened): Promise<void> {
    try {
      await this.#options.keyAnswers?.leave(session);
      if (this.#own !== undefined) {
        await this.#own.end();
        return;
      }
      await this.#options.recovery?.leave(session);
      await session.run("Returning a session", closeShared, [...(said.before ?? [])], statementDeadline);
      session.return();
    } catch (error) {
      session.destroy(toError(error));
    }
  }

  /** Never rejects. */
  async #open(): Promise<void> {
    let session: Session | NoSession | undefined;
    let said: OpenSharedAnswer;
    try {
      session = await this.#reserve();
      if ("refused" in session) {
        this.#end({ is: "gone", on: undefined }, undefined);
        this.#batches.refuse(session);
        return;
      }
      const refusal = await this.#options.recovery?.refuses(session);
      if (refusal !== undefined) {
        if (this.#own === undefined) session.return();
        else void this.#own.end();
        this.#end({ is: "gone", on: undefined }, undefined);
        this.#batches.refuse(refusal);
        return;
      }
      said = await this.#prepare(session);
    } catch (error) {
      if (session !== undefined && !("refused" in session)) session.destroy(toError(error));
      this.#end({ is: "gone", on: undefined }, toError(error));
      this.#batches.fail(error);
      return;
    }
    const on = { session, said };
    const closes = this.#state.is === "opening" && this.#state.closeWhenOpen;
    this.#state = { is: "open", on };
    session.onGone((cause) => this.#gone(on, cause));
    this.#options.events.sessionOpened("shared", said.pid);
    if (isDebugged) debug("session opened", { pid: said.pid, ttlClass: this.ttlClass, load: this.load });
    this.#batches.begin({ session, pid: said.pid });
    const locks = (): Iterable<KeyedLock> => this.locks.carriedBy(this);
    this.#options.keyAnswers?.join({ session, pid: said.pid, locks });
    // Whoever it was opened for may have left.
    if (closes) void this.close();
    else this.#restIfEmpty();
  }

  async #reserve(): Promise<Session | NoSession> {
    const { pool, connWaitTimeout } = this.#options;
    if (!leavesNothing(pool) || !canConnectBeside(pool))
      return await reserveSession(pool, { wait: connWaitTimeout });
    const start = performance.now();
    const milliseconds = boundedWait(connWaitTimeout);
    try {
      this.#own = await connectBeside(pool, { doing: "Connecting", milliseconds });
    } catch (error) {
      const waited = performance.now() - start;
      if (waited < milliseconds) throw error;
      return { refused: "connection-timeout", waited: Math.round(waited) };
    }
    return this.#own.session;
  }

  async #prepare(session: Session): Promise<OpenSharedAnswer> {
    const { trustPooler, enforced, name } = this.#options;
    const doing = "Opening a session";
    const announced = trustPooler ? undefined : session.announcedPid;
    const linkTimeouts = enforced ? tcpTimeouts(this.#carried.value) : [null, null];
    const values = [announced?.toString() ?? null, name, ...linkTimeouts];
    const { said, sentAt } = await session.run<OpenSharedAnswer>(
      doing,
      openShared,
      values,
      statementDeadline,
    );
    session.assertOutsideTransaction(doing);
    assertTrusted(said, { pid: announced }, doing);
    this.#keepalive.proven(Number.POSITIVE_INFINITY, sentAt);
    return said;
  }

  #gone(on: Opened, cause: Error): void {
    this.#options.events.sessionClosed("shared", on.said.pid, cause);
    if (isDebugged) debug("session lost", { pid: on.said.pid, locks: this.load, cause: cause.message });
    this.#end({ is: "gone", on }, cause);
    this.#batches.gone(cause);
  }

  #end(state: State, cause: Error | undefined): void {
    if (this.#hasEnded) return;
    this.#state = state;
    this.#keepalive.rest();
    clearTimeout(this.#lingering);
    this.locks.ended(this, cause);
  }
}
