import { Alarm, elapsedSince, type Instant, now } from "../runtime/clock.ts";

/** What {@link OwnRefreshes} needs of its lock. */
interface RefreshedLock {
  /** Milliseconds. */
  readonly ttl: number;
  /** The statement whose TTL ends first, and when it was sent. */
  readonly soonest: { readonly sentAt: Instant };
  /** Milliseconds until its holder must stop relying on it. */
  readonly left: number;
  refresh(): Promise<void>;
  expire(): void;
}

/** Refreshes a lock that has a session to itself, again and again, and ends it when its TTL has passed; one timer does both. */
export class OwnRefreshes {
  readonly #lock: RefreshedLock;
  readonly #alarm: Alarm<OwnRefreshes>;
  /** Fraction of the TTL between refreshes: at most a third, jittered so that handles do not refresh in step. */
  readonly #restShare = 0.28 + Math.random() * 0.05;
  #state: "resting" | "refreshing" | "stopped" = "resting";
  /** When a refresh was last tried. */
  #triedAt: Instant;

  constructor(lock: RefreshedLock) {
    this.#lock = lock;
    this.#triedAt = lock.soonest.sentAt;
    this.#alarm = new Alarm<OwnRefreshes>(this, OwnRefreshes.#untilNext, OwnRefreshes.#ring);
  }

  stop(): void {
    this.#state = "stopped";
    this.#alarm.stop();
  }

  /** Called when the end of the lock's TTL has moved, or may be about to. */
  moved(): void {
    if (this.#state !== "stopped") this.#alarm.reset();
  }

  static #untilNext(this: void, refreshes: OwnRefreshes): number {
    const lock = refreshes.#lock;
    if (refreshes.#state !== "resting") return lock.left;
    const rested = Math.min(elapsedSince(lock.soonest.sentAt), elapsedSince(refreshes.#triedAt));
    return Math.min(lock.left, lock.ttl * refreshes.#restShare - rested);
  }

  static #ring(this: void, refreshes: OwnRefreshes): void {
    if (refreshes.#lock.left <= 0) refreshes.#lock.expire();
    else refreshes.#refresh();
  }

  #refresh(): void {
    this.#state = "refreshing";
    this.#triedAt = now();
    this.#alarm.reset();
    const next = (): void => {
      if (this.#state !== "refreshing") return;
      this.#state = "resting";
      this.#alarm.reset();
    };
    // A failure has ended the lock and aborted its signal; a refusal by the circuit breaker is tried again.
    this.#lock.refresh().then(next, next);
  }
}
