import { signalOf } from "../contract/acquire-options.ts";
import { CircuitOpenError, LockNotHeldError } from "../contract/errors.ts";
import type { Duration, Lock, LockMode, RefreshOptions } from "../contract/locker.ts";
import { type CircuitBreaker, throughBreaker } from "../runtime/circuit-breaker.ts";
import { Alarm, elapsedSince, type Instant, now } from "../runtime/clock.ts";
import { abandonOnAbort, stopSignalOf } from "../runtime/stop-signal.ts";
import type { Telemetry } from "../runtime/telemetry.ts";
import { type AskedTtl, TrustWindow } from "../runtime/trust-window.ts";
import type { GoneListener, Grant } from "../sessions/grant.ts";
import { believableOf } from "../sessions/server-ttl.ts";
import { type HoldingState, held, lossOf, notHeldIn } from "./holding-state.ts";

/** What a handle needs of the locker that made it. */
export interface Keeper {
  readonly telemetry: Telemetry;
  readonly breaker: CircuitBreaker | undefined;
  /** @returns milliseconds @throws {InvalidTtlError} */
  assertTtl(got: unknown): number;
  /** Nothing of this lock is left in the server. */
  forget(lock: HeldLock): void;
  /** The holder no longer believes, but the server may still have the lock. */
  expired(lock: HeldLock): void;
}

export class HeldLock implements Lock, GoneListener {
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  readonly #keeper: Keeper;
  readonly #grant: Grant;
  /**
   * The one timer: of the next refresh, or of the end of the TTL, whichever comes first. None where the session sees to both:
   * it has one for all its locks.
   */
  #alarm: Alarm<HeldLock> | undefined;
  /** Whether it refreshes by itself, has its session see to that, or leaves it to its holder. */
  #beat: "its own" | "its session's" | undefined;
  /** Of the TTL, after which it does: no more than a third, and not the same for all, so that not all speak at once. */
  readonly #restShare = 0.28 + Math.random() * 0.05;
  #beating = false;
  /** When a refresh was last tried. */
  #beatAt: Instant;
  #state: HoldingState = held;
  /** How long its holder may rely on it. */
  readonly #window: TrustWindow;
  #controller: AbortController | undefined;
  #freeing: Promise<void> | undefined;

  constructor(
    facts: { key: string; id: bigint; mode: LockMode; ttl: number; autoRefresh: boolean },
    grant: Grant,
    keeper: Keeper,
  ) {
    this.key = facts.key;
    this.id = facts.id;
    this.mode = facts.mode;
    this.#grant = grant;
    this.#window = new TrustWindow(facts.ttl, grant.provenAt, {
      trusted: (ttl) => believableOf(grant, ttl),
      enforced: grant.lapses,
    });
    this.#keeper = keeper;
    this.#beatAt = grant.provenAt;
    if (facts.autoRefresh) this.#beat = grant.keepProven === undefined ? "its own" : "its session's";
    if (this.#beat === "its session's") grant.keepProven?.(facts.ttl);
    else this.#setAlarm();
    keeper.telemetry.granted();
    grant.onGone(this);
  }

  get ttl(): number {
    return this.#window.ttl;
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
    const wanted = ttl === undefined ? this.ttl : this.#keeper.assertTtl(ttl);
    const signal = stopSignalOf(signalOf(options));
    await this.#keeper.telemetry.observe(
      "refresh",
      { key: this.key, id: this.id, ttl: wanted },
      signal,
      async () => {
        signal?.throwIfAborted();
        await abandonOnAbort(this.#prove(wanted), [signal]);
      },
    );
  }

  release(): Promise<void> {
    return this.#keeper.telemetry.observe("release", this, undefined, () => this.#release());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state.is !== "held" && this.#state.is !== "expired") return;
    await this.release().catch((error: unknown) => {
      if (!(error instanceof LockNotHeldError)) throw error;
    });
  }

  /** From now on the holder refreshes, or nobody. */
  stopRefreshing(): void {
    this.#leaveToItself();
    if (this.#state.is === "held") this.#setAlarm();
  }

  #leaveToItself(): void {
    if (this.#beat === "its session's") {
      // What the session has proved up to now counts; what it proves from now on does not.
      this.#window.extend(this.#grant.provenAt);
      this.#grant.keepProven?.(undefined);
    }
    this.#beat = undefined;
  }

  /** Ends holding because the locker closes; settles when nothing is left of the lock in the server. Never rejects. */
  async close(): Promise<void> {
    if (this.#state.is === "held") this.#end({ is: "closed" });
    await this.#freeQuietly();
  }

  /** Whether the TTL has passed. Whoever asked has then been told so, which no proof of the session may take back. */
  #isOver(): boolean {
    if (this.#left() > 0) return false;
    queueMicrotask(() => this.#expire());
    return true;
  }

  /** Milliseconds until the holder must stop believing. */
  #left(): number {
    // Whatever was asked of the session, for another lock perhaps, proves this one as well.
    if (this.#beat === "its session's") this.#window.extend(this.#grant.provenAt);
    return this.#window.left;
  }

  /** Milliseconds until it is to be refreshed, counted from when it last was, or that was last tried. */
  #untilBeat(): number {
    if (this.#beat !== "its own" || this.#beating) return Number.POSITIVE_INFINITY;
    const rested = Math.min(elapsedSince(this.#window.provenAt), elapsedSince(this.#beatAt));
    return this.ttl * this.#restShare - rested;
  }

  #setAlarm(): void {
    this.#alarm ??= new Alarm<HeldLock>(this, HeldLock.#untilAlarm, HeldLock.#onAlarm);
  }

  static #untilAlarm(this: void, lock: HeldLock): number {
    return Math.min(lock.#left(), lock.#untilBeat());
  }

  static #onAlarm(this: void, lock: HeldLock): void {
    if (lock.#left() <= 0) lock.#expire();
    else lock.#refreshByItself();
  }

  #refreshByItself(): void {
    this.#beating = true;
    this.#beatAt = now();
    this.#alarm?.reset();
    const next = (): void => {
      this.#beating = false;
      if (this.#state.is === "held") this.#alarm?.reset();
    };
    // A failure has ended the lock and aborted its signal; a refusal by the circuit breaker is tried again.
    this.refresh().then(next, next);
  }

  async #prove(ttl: number): Promise<void> {
    await this.#freeIfExpired();
    if (!this.held) throw this.#notHeld();
    const state = this.#state;
    let asked: AskedTtl | undefined;
    try {
      const sentAt = await throughBreaker(this.#keeper.breaker, () => {
        // The breaker may have taken its time, too, and what is over is not asked for: the session may be somebody else's.
        const left = this.#left();
        if (this.#state !== state || left <= 0) return Promise.resolve(undefined);
        asked = this.#window.ask(ttl);
        if (ttl < this.ttl) this.#alarm?.reset();
        // The answer has to come while the holder still relies on the lock, with something to spare for what it then does.
        return this.#grant.refresh(ttl, Math.max(left * 0.9, 1));
      });
      // Meanwhile the lock may have been released, lost or closed, or have expired: what is over stays over.
      await this.#freeIfExpired();
      if (this.#state !== state) throw this.#notHeld();
      const before = this.ttl;
      if (asked !== undefined) this.#window.answered(asked, sentAt);
      if (this.#beat === "its session's") this.#grant.keepProven?.(this.ttl);
      if (this.ttl < before) this.#alarm?.reset();
    } catch (error) {
      if (error instanceof CircuitOpenError || error instanceof LockNotHeldError) throw error;
      if (this.#state.is === "held") this.#end({ is: "lost", cause: error });
      throw this.#notHeld(error);
    }
  }

  /** A holder that comes back after its TTL finds the lock expired, timer or not, and frees it in the server. */
  async #freeIfExpired(): Promise<void> {
    if (this.#state.is === "held" && this.#left() <= 0) this.#expire();
    if (this.#state.is === "expired") await this.#freeQuietly();
  }

  async #release(): Promise<void> {
    if (this.expired) await this.#freeIfExpired();
    if (this.#state.is !== "held") throw this.#notHeld();
    this.#state = { is: "releasing" };
    try {
      await this.#free();
      this.#end({ is: "released" });
    } catch (cause) {
      this.#end({ is: "lost", cause });
      throw this.#notHeld();
    }
  }

  /** Gives the lock back in the server, once, whoever asks first. */
  #free(): Promise<void> {
    this.#freeing ??= this.#grant.release();
    return this.#freeing;
  }

  /** For a lock that nobody believes in any more. A failure has ended the session, and the lock with it. */
  async #freeQuietly(): Promise<void> {
    await this.#free().catch((err: unknown) => {
      this.#keeper.telemetry.log.debug(
        { key: this.key, err },
        "giving a lock back failed; its session was ended",
      );
    });
    this.#keeper.forget(this);
  }

  #expire(): void {
    if (this.#state.is !== "held") return;
    // Where it was to be proved over and over, and was not, its holder has nothing to decide, either.
    const over = this.#grant.lapses || this.#beat === "its session's";
    this.#end({ is: "expired" });
    if (over) void this.#freeQuietly();
  }

  /** The session ended by itself. A release under way learns it from its own statement. */
  gone(cause: Error): void {
    if (this.#state.is === "held") {
      // Where the server ended it because the TTL had passed, a timer of ours was only late.
      if (this.#left() > 0) this.#end({ is: "lost", cause });
      else this.#end({ is: "expired" });
    }
    if (this.#state.is === "expired") this.#keeper.forget(this);
  }

  overdue(): void {
    if (this.#state.is === "held" && this.#left() <= 0) this.#expire();
  }

  #end(state: HoldingState): void {
    this.#state = state;
    this.#alarm?.stop();
    this.#leaveToItself();
    if (state.is === "released" || state.is === "lost") this.#keeper.forget(this);
    if (state.is === "expired") this.#keeper.expired(this);
    const reason = this.#lossReason();
    // First the registry, then the signal, whose listeners are the holder's own code, then whoever watches.
    if (reason !== undefined) this.#controller?.abort(reason);
    this.#keeper.telemetry.ended(this, state.is === "closed" ? undefined : reason);
  }

  #lossReason(): Error | undefined {
    return lossOf(this.#state, { key: this.key, ttl: this.ttl });
  }

  #notHeld(because?: unknown): LockNotHeldError {
    const { key } = this;
    if (this.#state.is !== "held") return notHeldIn(this.#state, key);
    // Asked before any timer or socket event could tell.
    const cause = because ?? this.#grant.goneBecause;
    return notHeldIn(this.expired ? { is: "expired" } : { is: "lost", cause }, key);
  }
}
