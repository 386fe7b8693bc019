import { abandonOnAbort } from "./abandon.ts";
import { type CircuitBreaker, throughBreaker } from "./circuit-breaker.ts";
import { Alarm, elapsedSince, type Instant, now } from "./clock.ts";
import {
  CircuitOpenError,
  LockExpiredError,
  LockerClosedError,
  LockLostError,
  LockNotHeldError,
} from "./errors.ts";
import type { Grant } from "./grant.ts";
import type { Duration, Lock, LockMode, RefreshOptions } from "./locker.ts";
import { assertTtl, signalOf } from "./options.ts";
import type { Telemetry } from "./telemetry.ts";

/** What a handle needs of the locker that made it. */
export interface Keeper {
  readonly telemetry: Telemetry;
  readonly breaker: CircuitBreaker | undefined;
  /** Nothing of this lock is left in the server. */
  forget(lock: HeldLock): void;
}

//            release()              its answer
//   held ───────────────▶ releasing ───────────▶ released
//    │                        └── the answer: not held ──▶ lost
//    ├── the TTL passes ──▶ expired    the server's lock stays until release(), refresh() or close()
//    ├── the session ends, a refresh fails ──▶ lost
//    └── locker.close() ──▶ closed
type State =
  | { readonly is: "held" }
  | { readonly is: "releasing" }
  | { readonly is: "released" }
  | { readonly is: "expired" }
  | { readonly is: "lost"; readonly cause: unknown }
  | { readonly is: "closed" };

export class HeldLock implements Lock {
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  readonly #keeper: Keeper;
  readonly #grant: Grant;
  readonly #alarm: Alarm;
  /** Refreshes by itself; `undefined` where the holder does. */
  readonly #heartbeat: Alarm | undefined;
  #beatAt: Instant;
  #state: State = { is: "held" };
  #ttl: number;
  #confirmedAt: Instant;
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
    this.#ttl = facts.ttl;
    this.#grant = grant;
    this.#confirmedAt = grant.confirmedAt;
    this.#keeper = keeper;
    this.#alarm = new Alarm(
      () => this.#left(),
      () => this.#expire(),
    );
    this.#beatAt = grant.confirmedAt;
    this.#heartbeat = facts.autoRefresh
      ? new Alarm(
          () => this.#untilBeat(),
          () => this.#beat(),
        )
      : undefined;
    keeper.telemetry.granted();
    grant.onGone((cause) => this.#gone(cause));
  }

  get ttl(): number {
    return this.#ttl;
  }

  get held(): boolean {
    return this.#state.is === "held" && this.#left() > 0 && this.#grant.goneBecause === undefined;
  }

  get expired(): boolean {
    return this.#state.is === "expired" || (this.#state.is === "held" && this.#left() <= 0);
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
    const wanted = ttl === undefined ? this.#ttl : assertTtl(ttl);
    const signal = signalOf(options);
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

  async release(): Promise<void> {
    await this.#keeper.telemetry.observe("release", this, undefined, () => this.#release());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#state.is !== "held" && this.#state.is !== "expired") return;
    await this.release().catch((error: unknown) => {
      if (!(error instanceof LockNotHeldError)) throw error;
    });
  }

  /** Ends holding because the locker closes; settles when nothing is left of the lock in the server. Never rejects. */
  async close(): Promise<void> {
    if (this.#state.is === "held") this.#end({ is: "closed" });
    await this.#freeQuietly();
  }

  /** Milliseconds until the holder must stop believing. */
  #left(): number {
    return this.#ttl - elapsedSince(this.#confirmedAt);
  }

  /** Milliseconds until a third of the TTL has passed since the session last proved it, or a refresh was last tried. */
  #untilBeat(): number {
    return this.#ttl / 3 - Math.min(elapsedSince(this.#confirmedAt), elapsedSince(this.#beatAt));
  }

  #beat(): void {
    if (this.#state.is !== "held") return;
    this.#beatAt = now();
    const next = (): void => {
      if (this.#state.is === "held") this.#heartbeat?.reset();
    };
    // A failure has ended the lock and aborted its signal; a refusal by the circuit breaker is tried again.
    this.refresh().then(next, next);
  }

  async #prove(ttl: number): Promise<void> {
    await this.#freeIfExpired();
    if (!this.held) throw this.#notHeld();
    const state = this.#state;
    try {
      // The answer has to come while the holder still believes: later, it would be for nothing.
      const deadline = Math.max(this.#left(), 1);
      const sentAt = await throughBreaker(this.#keeper.breaker, () => this.#grant.refresh(ttl, deadline));
      // Meanwhile the lock may have been released, lost or closed: what is over stays over.
      if (this.#state !== state) throw this.#notHeld();
      this.#confirmedAt = sentAt;
      const sooner = ttl < this.#ttl;
      this.#ttl = ttl;
      if (sooner) {
        this.#alarm.reset();
        this.#heartbeat?.reset();
      }
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
    await this.#freeIfExpired();
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
    if (this.#state.is === "held") this.#end({ is: "expired" });
  }

  /** The session ended by itself. A release under way learns it from its own statement. */
  #gone(cause: Error): void {
    if (this.#state.is === "held") this.#end({ is: "lost", cause });
    else if (this.#state.is === "expired") this.#keeper.forget(this);
  }

  #end(state: State): void {
    this.#state = state;
    this.#alarm.stop();
    this.#heartbeat?.stop();
    if (state.is === "released" || state.is === "lost") this.#keeper.forget(this);
    const reason = this.#lossReason();
    // First the books, then the signal: its listeners are the holder's own code.
    this.#keeper.telemetry.ended(this, state.is === "closed" ? undefined : reason);
    if (reason !== undefined) this.#controller?.abort(reason);
  }

  #lossReason(): Error | undefined {
    const { key } = this;
    switch (this.#state.is) {
      case "expired":
        return new LockExpiredError({ key, ttl: this.#ttl });
      case "lost":
        return new LockLostError({ key, cause: this.#state.cause });
      case "closed":
        return new LockLostError({ key, cause: new LockerClosedError() });
      default:
        return undefined;
    }
  }

  #notHeld(because?: unknown): LockNotHeldError {
    const { key } = this;
    switch (this.#state.is) {
      case "held": {
        // Asked before any timer or socket event could tell.
        const cause = because ?? this.#grant.goneBecause;
        return this.expired
          ? new LockNotHeldError({ key, reason: "expired" })
          : new LockNotHeldError({ key, reason: "lost", cause });
      }
      case "lost":
        return new LockNotHeldError({ key, reason: "lost", cause: this.#state.cause });
      case "releasing":
        return new LockNotHeldError({ key, reason: "released" });
      default:
        return new LockNotHeldError({ key, reason: this.#state.is });
    }
  }
}
