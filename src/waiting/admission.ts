import { LockerClosedError, LockNotAcquiredError } from "../contract/errors.ts";
import type { Logger } from "../contract/locker.ts";
import type { CircuitBreaker } from "../runtime/circuit-breaker.ts";
import { Stop } from "../runtime/stop-signal.ts";
import type { Telemetry } from "../runtime/telemetry.ts";
import type { LockStore } from "../sessions/grant.ts";
import { Attempt, type Granted, type Hold, type Holdings, type Wanted } from "./attempt.ts";
import { Polling } from "./polling.ts";
import { type Around, lockAround } from "./reentrancy.ts";
import { type AskedWait, Wait, type WaitSurroundings } from "./wait.ts";
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
    return new Promise((resolve, reject) => {
      if (mayWait) new WaitingCall(this, { wanted, store, hold, around }, { resolve, reject }).begin();
      else new OnlyTry(wanted, this, { hold, around, resolve, reject }).begin(store);
    });
  }

  waitBegan(): void {
    this.#waiting += 1;
    this.began();
  }

  waitEnded(): void {
    this.#waiting -= 1;
    this.ended();
  }
}

/** A call with a wait, from beginning to end. */
class WaitingCall<G extends Granted, H> extends Wait<G, H> {
  readonly #admission: Admission;
  readonly #wanted: Wanted;
  readonly #resolve: (lock: H) => void;
  readonly #reject: (error: unknown) => void;

  constructor(
    admission: Admission,
    asked: AskedWait<G, H>,
    { resolve, reject }: { resolve(lock: H): void; reject(error: unknown): void },
  ) {
    super(admission, asked);
    this.#admission = admission;
    this.#wanted = asked.wanted;
    this.#resolve = resolve;
    this.#reject = reject;
  }

  override begin(): void {
    this.#admission.waitBegan();
    super.begin();
  }

  protected override onGranted(lock: H): void {
    this.#admission.waitEnded();
    this.#admission.telemetry.succeeded("acquire", this.start);
    this.#resolve(lock);
  }

  protected override onFailed(error: unknown): void {
    const { start } = this;
    const { signal } = this.#wanted;
    this.#admission.waitEnded();
    this.#admission.telemetry.failed("acquire", this.#wanted, { error, signal, start });
    this.#reject(error);
  }
}

/** A call without a wait, from beginning to end. */
class OnlyTry<G extends Granted, H> extends Attempt<G> {
  readonly #wanted: Wanted;
  readonly #admission: Admission;
  readonly #hold: Hold<G, H>;
  readonly #own: Around | undefined;
  readonly #resolve: (lock: H) => void;
  readonly #reject: (error: unknown) => void;
  readonly #start: number;

  constructor(
    wanted: Wanted,
    admission: Admission,
    parts: {
      hold: Hold<G, H>;
      around: Around | undefined;
      resolve: (lock: H) => void;
      reject: (error: unknown) => void;
    },
  ) {
    super(wanted, admission);
    this.#wanted = wanted;
    this.#admission = admission;
    this.#hold = parts.hold;
    this.#own = parts.around;
    this.#resolve = parts.resolve;
    this.#reject = parts.reject;
    this.#start = performance.now();
  }

  begin(store: LockStore<G>): void {
    this.#admission.began();
    const { id, mode, signal, alsoEndedBy } = this.#wanted;
    // Otherwise readers that come one after another would never let a writer in.
    if (mode === "shared" && this.#admission.lines.hasWriter(id)) this.onHeld();
    else if (signal === undefined && alsoEndedBy === undefined) this.ask(store, "tryLock");
    else this.ask(store, "tryLock", [signal, alsoEndedBy]);
  }

  protected override onGranted(grant: G): void {
    const lock = this.#hold(grant, this.#wanted);
    this.#admission.ended();
    this.#admission.telemetry.succeeded("acquire", this.#start);
    this.#resolve(lock);
  }

  protected override onHeld(): void {
    const { key } = this.#wanted;
    this.onFailed(new LockNotAcquiredError({ key, reason: "held", reentrant: this.#own !== undefined }));
  }

  protected override onFailed(error: unknown): void {
    const { signal } = this.#wanted;
    this.#admission.ended();
    this.#admission.telemetry.failed("acquire", this.#wanted, { error, signal, start: this.#start });
    this.#reject(error);
  }
}
