import { LockerClosedError, LockNotAcquiredError } from "../contract/errors.ts";
import type { Logger } from "../contract/locker.ts";
import type { OwnHold } from "../contract/not-acquired-sentence.ts";
import type { CircuitBreaker } from "../runtime/circuit-breaker.ts";
import { callBegan, callEnded } from "../runtime/process-life.ts";
import { type Settler, settledBy, unset } from "../runtime/settled-later.ts";
import { Stop } from "../runtime/stop-signal.ts";
import type { Telemetry } from "../runtime/telemetry.ts";
import type { LockStore } from "../sessions/grant.ts";
import { Attempt, type Granted, type Hold, type Holdings, type Wanted } from "./attempt.ts";
import { Polling } from "./polling.ts";
import { type Around, lockAround, ownHoldOf } from "./reentrancy.ts";
import { type LockCall, Wait, type WaitSurroundings } from "./wait.ts";
import { WaitingLines } from "./waiting-lines.ts";

/** Decides which callers of a locker may try for a lock, and when. An {@link Attempt} tries once, a {@link Wait} until it is granted. */
export class Admission implements WaitSurroundings {
  readonly log: Logger;
  readonly breaker: CircuitBreaker | undefined;
  readonly registry: Holdings;
  /** Aborts with a {@link LockerClosedError} when the locker closes. */
  readonly closing = new Stop();
  hasConnected = false;
  readonly telemetry: Telemetry;
  readonly lines = new WaitingLines();
  readonly polling = new Polling();
  /** How many attempts have no answer yet, those included whose caller has left and whose grant would have to be undone. */
  #underWay = 0;
  #waiting = 0;
  #onIdle: (() => void) | undefined;

  constructor(parts: { telemetry: Telemetry; breaker: CircuitBreaker | undefined; registry: Holdings }) {
    this.telemetry = parts.telemetry;
    this.log = parts.telemetry.log;
    this.breaker = parts.breaker;
    this.registry = parts.registry;
  }

  /** How many callers have no answer yet (`inFlight`), and how many wait for a holder (`waiting`). */
  get counts(): { inFlight: number; waiting: number } {
    return { inFlight: this.#underWay - this.#waiting, waiting: this.#waiting };
  }

  /** Ends every attempt and every wait, and lets nobody begin another. */
  stop(): void {
    this.closing.abort(new LockerClosedError());
  }

  /** Settles when nothing is left of the attempts that {@link stop} has ended. Never rejects. */
  async close(endHeld: () => Promise<unknown>): Promise<void> {
    await endHeld();
    if (this.#underWay === 0) return;
    await new Promise<void>((resolve) => {
      this.#onIdle = resolve;
    });
  }

  began(): void {
    this.#underWay += 1;
  }

  ended(): void {
    this.#underWay -= 1;
    if (this.#underWay === 0) this.#onIdle?.();
  }

  /**
   * Takes the lock, after a wait if one is wanted; counts and times how it ended.
   *
   * @throws {LockNotAcquiredError} {LockerClosedError} the reason of the caller's signal, or what the store fails with
   */
  take<G extends Granted, H>(wanted: Wanted, store: LockStore<G>, hold: Hold<G, H>): Promise<H> {
    // It is not certain that the caller itself holds the lock: see `lockAround`. But a wait without a bound might never end.
    const around = lockAround(this, wanted.id);
    const mayWait = wanted.wait > 0 && (around === undefined || Number.isFinite(wanted.wait));
    if (mayWait) {
      const call = new WaitingCall(this, { wanted, store, hold, around });
      const taken = settledBy(call);
      call.begin();
      return taken;
    }
    const attempt = new OnlyTry(this, wanted, hold, around);
    const taken = settledBy(attempt);
    this.#underWay += 1;
    const { id, mode, signal, alsoEndedBy } = wanted;
    // Otherwise readers that come one after another would never let a writer in.
    if (mode === "shared" && this.lines.hasWriter(id)) attempt.refuse({ by: "line" });
    // PostgreSQL itself refuses a try while somebody waits for the lock.
    else if (store.hasNoOrder && mode === "exclusive" && this.lines.lengthOf(id) > 0)
      attempt.refuse({ by: "line" });
    else if (signal === undefined && alsoEndedBy === undefined) attempt.ask(store, "tryLock");
    else attempt.ask(store, "tryLock", [signal, alsoEndedBy]);
    return taken;
  }

  waitBegan(): void {
    this.#waiting += 1;
    callBegan();
    this.began();
  }

  waitEnded(): void {
    this.#waiting -= 1;
    callEnded();
    this.ended();
  }
}

/** A call with a wait, from beginning to end. */
class WaitingCall<G extends Granted, H> extends Wait<G, H> implements Settler<H> {
  readonly #admission: Admission;
  /** By `performance.now()`, as everything that is counted and timed. */
  readonly #called = performance.now();
  resolve: (lock: H) => void = unset;
  reject: (error: unknown) => void = unset;

  constructor(admission: Admission, asked: LockCall<G, H>) {
    super(admission, asked);
    this.#admission = admission;
  }

  override begin(): void {
    this.#admission.waitBegan();
    super.begin();
  }

  protected override onGranted(lock: H): void {
    this.#admission.waitEnded();
    this.#admission.telemetry.succeeded("acquire", this.#called);
    this.resolve(lock);
  }

  protected override onFailed(error: unknown): void {
    const { wanted } = this;
    const { signal } = wanted;
    this.#admission.waitEnded();
    this.#admission.telemetry.failed("acquire", wanted, { error, signal, start: this.#called });
    this.reject(error);
  }
}

/** A call without a wait, from beginning to end. */
class OnlyTry<G extends Granted, H> extends Attempt<G, Admission> implements Settler<H> {
  readonly #hold: Hold<G, H>;
  readonly #around: Around | undefined;
  readonly #start: number;
  resolve: (lock: H) => void;
  reject: (error: unknown) => void;

  constructor(admission: Admission, wanted: Wanted, hold: Hold<G, H>, around: Around | undefined) {
    super(wanted, admission);
    this.#hold = hold;
    this.#around = around;
    this.#start = performance.now();
    this.resolve = unset;
    this.reject = unset;
  }

  protected override onGranted(grant: G): void {
    const hold = this.#hold;
    const lock = hold(grant, this.wanted);
    this.surroundings.ended();
    this.surroundings.telemetry.succeeded("acquire", this.#start);
    this.resolve(lock);
  }

  protected override onHeld(): void {
    this.refuse(undefined);
  }

  /** @param otherwise what keeps the caller out, unless a holder here does */
  refuse(otherwise: OwnHold | undefined): void {
    const { key, mode } = this.wanted;
    const ownHold = ownHoldOf(this.#around, this.wanted, this.surroundings.registry) ?? otherwise;
    this.onFailed(new LockNotAcquiredError({ key, mode, reason: "held", ownHold }));
  }

  protected override onFailed(error: unknown): void {
    const { wanted, surroundings } = this;
    const { signal } = wanted;
    surroundings.ended();
    surroundings.telemetry.failed("acquire", wanted, { error, signal, start: this.#start });
    this.reject(error);
  }
}
