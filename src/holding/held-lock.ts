import { inspect } from "node:util";
import { signalOf } from "../contract/acquire-options.ts";
import { CircuitOpenError, LockNotHeldError } from "../contract/errors.ts";
import type { Lock, RefreshOptions } from "../contract/lock.ts";
import type { Duration, LockMode } from "../contract/locker.ts";
import { throughBreaker } from "../runtime/circuit-breaker.ts";
import { type Instant, soon } from "../runtime/clock.ts";
import { Expiring } from "../runtime/expiries.ts";
import { callOutside } from "../runtime/outside-callers.ts";
import { aliveUntil } from "../runtime/process-life.ts";
import { type AskedTtl, assertInTime } from "../runtime/reliance.ts";
import { settledBy, unset } from "../runtime/settled-later.ts";
import { abandonOnAbort, stopSignalOf } from "../runtime/stop-signal.ts";
import type { GoneListener, Grant, ReleaseListener } from "../sessions/grant.ts";
import { type HoldingState, held, lossOf, notHeldIn, type Releasing, released } from "./holding-state.ts";
import type { HeldFacts, LockOwner } from "./lock-owner.ts";
import type { RegisteredLock } from "./lock-registry.ts";
import { OwnRefreshes } from "./own-refreshes.ts";
import { jsonOf, shownOf } from "./shown-lock.ts";

/**
 * What sees to a lock while it is held: the end of its TTL is watched, if its holder refreshes or nobody does; it refreshes by itself, with
 * a timer of its own; or its session proves it, with one timer for all its locks. Nothing does once it has ended.
 */
type Upkeep = OwnRefreshes | typeof itsHolders | typeof itsSessions | typeof nobodys;
const itsHolders = "its holder's";
const itsSessions = "its session's";
const nobodys = "nobody's";

export class HeldLock extends Expiring implements Lock, GoneListener, ReleaseListener, RegisteredLock {
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  readonly #owner: LockOwner;
  readonly #grant: Grant;
  #state: HoldingState;
  #upkeep: Upkeep;
  #controller: AbortController | undefined;
  #freeing: Promise<void> | undefined;

  /** @throws {DatabaseError} the TTL has passed since the grant was asked for */
  constructor(facts: HeldFacts, grant: Grant, owner: LockOwner) {
    const { grantedAt, lapses } = grant;
    super(facts.ttl, grantedAt, lapses);
    assertInTime(grantedAt, lapses, facts);
    this.key = facts.key;
    this.id = facts.id;
    this.mode = facts.mode;
    this.#grant = grant;
    this.#owner = owner;
    this.#state = held;
    this.#controller = undefined;
    this.#freeing = undefined;
    if (!facts.autoRefresh) {
      this.#upkeep = itsHolders;
      owner.expiries.watch(this, facts.ttl, grantedAt);
    } else if (grant.keepProven === undefined) {
      this.#upkeep = new OwnRefreshes(this);
    } else {
      this.#upkeep = itsSessions;
      grant.keepProven(facts.ttl);
    }
    owner.telemetry.granted();
    grant.onGone(this);
  }

  get grantedAt(): Instant {
    return this.#grant.grantedAt;
  }

  get fencingToken(): bigint | undefined {
    return this.#grant.fencingToken;
  }

  get held(): boolean {
    return this.#state.is === "held" && !this.#isOver() && this.#grant.goneBecause === undefined;
  }

  get expired(): boolean {
    return this.#state.is === "expired" || (this.#state.is === "held" && this.#isOver());
  }

  get expiresAt(): Date {
    // Whatever its session has proved since then counts as well.
    if (this.#state.is === "held") this.left;
    return new Date(this.until);
  }

  get remaining(): number {
    return this.held ? Math.max(this.left, 0) : 0;
  }

  /** The backend of its session, if that is known. */
  get pid(): number | undefined {
    return this.#grant.pid;
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      this.#controller = new AbortController();
      const reason = this.#lossReason();
      if (reason !== undefined) this.#controller.abort(reason);
    }
    return this.#controller.signal;
  }

  assertHeld(): void {
    if (!this.held) throw this.#notHeld();
  }

  async refresh(ttl?: Duration, options: RefreshOptions = {}): Promise<void> {
    const wanted = ttl === undefined ? this.ttl : this.#owner.assertTtl(ttl);
    const signal = stopSignalOf(signalOf(options));
    await this.#owner.telemetry.observe(
      "refresh",
      { key: this.key, id: this.id, ttl: wanted },
      signal,
      async () => {
        signal?.throwIfAborted();
        await aliveUntil(abandonOnAbort(this.#prove(wanted), [signal]));
      },
    );
  }

  // Not async, because it is called most: an async function would make one more promise. On the way of every lock, a closure that is
  // seldom needed stands in a function of its own, because V8 makes its context as soon as the function around it is entered.
  release(): Promise<void> {
    return this.#owner.telemetry.isTraced ? this.#releaseInSpan() : this.#release();
  }

  /** What `JSON.stringify` writes: a `bigint` is a string there. */
  toJSON(): object {
    return jsonOf(this);
  }

  /** What `console.log` shows. */
  [inspect.custom](_depth: unknown, options: object): string {
    return shownOf(this, options);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state.is !== "held" && this.#state.is !== "expired") return;
    await this.release().catch((error: unknown) => {
      if (!(error instanceof LockNotHeldError)) throw error;
    });
  }

  /** From now on, only its holder refreshes the lock. */
  stopRefreshing(): void {
    this.#stopUpkeep();
    if (this.#state.is !== "held") return;
    this.#upkeep = itsHolders;
    this.#owner.expiries.watchAgain(this);
  }

  #stopUpkeep(): void {
    const upkeep = this.#upkeep;
    this.#upkeep = nobodys;
    if (upkeep === itsSessions) {
      // What the session has proved so far counts; what it proves from now on does not.
      this.provedAgain(this.#grant.keptAt ?? this.#grant.grantedAt);
      this.#grant.keepProven?.(undefined);
    } else if (upkeep instanceof OwnRefreshes) {
      upkeep.stop();
    } else if (upkeep === itsHolders) {
      this.leave();
    }
  }

  /** Called when its TTL has changed, or may be about to, or when the lock has been proved. */
  #moved(): void {
    const upkeep = this.#upkeep;
    if (upkeep === itsSessions) this.#grant.keepProven?.(this.ttl);
    else if (upkeep instanceof OwnRefreshes) upkeep.moved();
    else if (upkeep === itsHolders) this.#owner.expiries.watchAgain(this);
  }

  /** Ends holding because the locker closes. Settles when the server has nothing left of the lock. Never rejects. */
  async close(): Promise<void> {
    if (this.#state.is === "held") this.#end({ is: "closed" });
    await this.#freeQuietly();
  }

  /** Whether the TTL has passed. The caller is then told so, and no later proof by the session may take that back. */
  #isOver(): boolean {
    if (this.left > 0) return false;
    this.#expireSoon();
    return true;
  }

  #expireSoon(): void {
    soon(() => this.expire());
  }

  /** Milliseconds until the holder must stop relying on it. */
  override get left(): number {
    // Whatever the session was asked, perhaps for another lock, proves this one as well.
    if (this.#upkeep === itsSessions) this.provedAgain(this.#grant.keptAt ?? this.#grant.grantedAt);
    return super.left;
  }

  async #prove(ttl: number): Promise<void> {
    await this.#freeIfExpired();
    if (!this.held) throw this.#notHeld();
    const state = this.#state;
    let asked: AskedTtl | undefined;
    try {
      const sentAt = await throughBreaker(this.#owner.breaker, () => {
        // The breaker may have taken its time. A lock that is over is not asked for: its session may be somebody else's by now.
        const left = this.left;
        if (this.#state !== state || left <= 0) return Promise.resolve(undefined);
        asked = this.askFor(ttl);
        if (ttl < this.ttl) this.#moved();
        // The answer must come while the holder still relies on the lock, with some time to spare.
        return this.#grant.refresh(ttl, Math.max(left * 0.9, 1));
      });
      // In the meantime the lock may have been released, lost or closed, or have expired: what is over stays over.
      await this.#freeIfExpired();
      if (this.#state !== state) throw this.#notHeld();
      if (asked !== undefined) this.answered(asked, sentAt);
      this.#moved();
    } catch (error) {
      if (error instanceof CircuitOpenError || error instanceof LockNotHeldError) throw error;
      if (this.#state.is === "held") this.#end({ is: "lost", cause: error });
      throw this.#notHeld(error);
    }
  }

  /** A holder that comes back after its TTL finds the lock expired, timer or not, and frees it in the server. */
  async #freeIfExpired(): Promise<void> {
    if (this.#state.is === "held" && this.left <= 0) this.#end({ is: "expired" });
    if (this.#state.is === "expired") await this.#freeQuietly();
  }

  #releaseInSpan(): Promise<void> {
    return this.#owner.telemetry.inSpan("release", this, undefined, () => this.#release());
  }

  #release(): Promise<void> {
    const start = performance.now();
    if (this.#state.is !== "held" || this.#isOver()) return this.#releaseWhatIsOver(start);
    const releasing: Releasing = { is: "releasing", start, resolve: unset, reject: unset };
    const over = settledBy(releasing);
    this.#state = releasing;
    if (this.#grant.free !== undefined) this.#grant.free(this);
    else this.#freeAlone();
    return over;
  }

  #freeAlone(): void {
    this.#free().then(
      () => this.freed(),
      (error: unknown) => this.notFreed(error),
    );
  }

  /** The lock that its holder has given back is free. */
  freed(): void {
    const state = this.#state;
    if (state.is !== "releasing") return;
    this.#end(released);
    this.#owner.telemetry.succeeded("release", state.start);
    state.resolve();
  }

  /** The lock that its holder has given back was not held, or may not have been. */
  notFreed(cause: unknown): void {
    const state = this.#state;
    if (state.is !== "releasing") return;
    this.#end({ is: "lost", cause });
    state.reject(this.#notReleased(state.start));
  }

  async #releaseWhatIsOver(start: number): Promise<void> {
    if (this.expired) await this.#freeIfExpired();
    throw this.#notReleased(start);
  }

  #notReleased(start: number): LockNotHeldError {
    const error = this.#notHeld();
    this.#owner.telemetry.failed("release", this, { error, signal: undefined, start });
    return error;
  }

  /** Gives the lock back in the server, once, whoever asks. */
  #free(): Promise<void> {
    this.#freeing ??= this.#grant.release();
    return this.#freeing;
  }

  /** Gives back a lock that nobody relies on any more. A failure has ended the session, and the lock with it. */
  async #freeQuietly(): Promise<void> {
    await this.#free().catch((err: unknown) => {
      this.#owner.telemetry.log.debug(
        { key: this.key, err },
        "giving a lock back failed; its session was ended",
      );
    });
    this.#owner.forget(this);
  }

  expire(): void {
    if (this.#state.is !== "held") return;
    // An auto-refreshed lock that could not be refreshed is given back at once, too: its holder has no decision to make.
    const over = this.#grant.lapses || this.#upkeep === itsSessions;
    this.#end({ is: "expired" }, { isKept: !over });
    if (over) void this.#freeQuietly();
  }

  /** The session has ended by itself. A release under way learns that from its own statement. */
  gone(cause: Error): void {
    if (this.#state.is === "held") {
      // If the server ended it because the TTL had passed, our timer was only late.
      if (this.left > 0) this.#end({ is: "lost", cause });
      else this.#end({ is: "expired" });
    }
    if (this.#state.is === "expired") this.#owner.forget(this);
  }

  overdue(): void {
    if (this.#state.is === "held" && this.left <= 0) this.expire();
  }

  #end(state: HoldingState, expiry?: { readonly isKept: boolean }): void {
    this.#state = state;
    this.#stopUpkeep();
    if (state.is === "released" || state.is === "lost") this.#owner.forget(this);
    if (state.is === "expired") this.#owner.expired(this);
    const reason = state.is === "released" ? undefined : this.#lossReason();
    // The registry first, then the signal, whose listeners are the holder's own code, then log and metrics.
    if (reason !== undefined) this.#abort(reason);
    this.#owner.telemetry.ended(this, state.is === "closed" ? undefined : reason, reason, expiry?.isKept);
  }

  #abort(reason: Error): void {
    callOutside(() => this.#controller?.abort(reason));
  }

  #lossReason(): Error | undefined {
    return lossOf(this.#state, { key: this.key, ttl: this.ttl });
  }

  #notHeld(because?: unknown): LockNotHeldError {
    const { key } = this;
    if (this.#state.is !== "held") return notHeldIn(this.#state, key);
    // The caller may ask before any timer or socket event could tell.
    const cause = because ?? this.#grant.goneBecause;
    return notHeldIn(this.expired ? { is: "expired" } : { is: "lost", cause }, key);
  }
}
