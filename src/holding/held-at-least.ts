import { inspect } from "node:util";
import { LockNotHeldError } from "../contract/errors.ts";
import type { Lock, RefreshOptions } from "../contract/lock.ts";
import type { Duration, LockMode, Logger } from "../contract/locker.ts";
import { longestTimer } from "../runtime/clock.ts";
import { type Link, stopSignalOf } from "../runtime/stop-signal.ts";
import { jsonOf } from "./shown-lock.ts";

/** Of a TTL, within which a lock may be left alone: the server's margin, and a slow timer. */
const unrefreshedShare = 0.9;

export interface LeastHold {
  /** Milliseconds from now. */
  readonly least: number;
  /** Whether the lock refreshes itself. */
  readonly autoRefresh: boolean;
  readonly log: Logger;
}

//   held ──release(), early──▶ kept: released for its caller, held for everybody else ──the time has passed──▶ free
//    │                          └── the session ends, a refresh fails, close() ──▶ free
//    └──release(), later, or a loss ──▶ as any lock
/**
 * A lock that is given back no earlier than so many milliseconds after its grant, whenever it is released.
 *
 * The time is that of the monotonic clock alone. It stands still while the machine is suspended, so that the lock is held too long
 * rather than too short.
 */
class HeldAtLeast implements Lock {
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  readonly #lock: Lock;
  readonly #hold: LeastHold;
  /** By `performance.now()`. */
  readonly #until: number;
  #isReleased = false;
  #controller: AbortController | undefined;
  /** Tells the caller of a loss, as long as it has not released. */
  #loss: Link | undefined;

  constructor(lock: Lock, hold: LeastHold) {
    this.key = lock.key;
    this.id = lock.id;
    this.mode = lock.mode;
    this.#lock = lock;
    this.#hold = hold;
    this.#until = performance.now() + hold.least;
  }

  get ttl(): number {
    return this.#lock.ttl;
  }

  get expiresAt(): Date {
    return this.#lock.expiresAt;
  }

  get remaining(): number {
    return this.#isReleased ? 0 : this.#lock.remaining;
  }

  get fencingToken(): bigint | undefined {
    return this.#lock.fencingToken;
  }

  /** What `JSON.stringify` writes: a `bigint` is a string there. */
  toJSON(): object {
    return jsonOf(this);
  }

  get held(): boolean {
    return !this.#isReleased && this.#lock.held;
  }

  get expired(): boolean {
    return !this.#isReleased && this.#lock.expired;
  }

  get signal(): AbortSignal {
    if (this.#controller === undefined) {
      const controller = new AbortController();
      this.#controller = controller;
      const lost = stopSignalOf(this.#lock.signal);
      if (this.#isReleased) return controller.signal;
      if (lost.aborted) controller.abort(lost.reason);
      else this.#loss = lost.listen(() => controller.abort(lost.reason));
    }
    return this.#controller.signal;
  }

  assertHeld(): void {
    if (this.#isReleased) throw this.#released();
    this.#lock.assertHeld();
  }

  async refresh(ttl?: Duration, options?: RefreshOptions): Promise<void> {
    if (this.#isReleased) throw this.#released();
    await this.#lock.refresh(ttl, options);
  }

  async release(): Promise<void> {
    if (this.#isReleased) throw this.#released();
    if (!this.#lock.held || this.#left() <= 0) return await this.#lock.release();
    this.#isReleased = true;
    // A loss from now on is none of the caller's.
    this.#loss?.cut();
    this.#keep();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.held && !this.expired) return;
    await this.release().catch((error: unknown) => {
      if (!(error instanceof LockNotHeldError)) throw error;
    });
  }

  [inspect.custom](): unknown {
    return this.#lock;
  }

  #left(): number {
    return this.#until - performance.now();
  }

  /** Holds the lock until its time has passed, and then gives it back. */
  #keep(): void {
    const lock = this.#lock;
    const { least, autoRefresh, log } = this.#hold;
    const refreshes = !autoRefresh && least > lock.ttl * unrefreshedShare;
    let timer: NodeJS.Timeout | undefined;
    const ended = stopSignalOf(lock.signal).listen(() => clearTimeout(timer));
    const giveUp = (err: unknown): void => {
      ended.cut();
      log.debug({ key: lock.key, err }, "a released lock that was to be held longer has ended");
    };
    const goOn = (): void => {
      const left = this.#left();
      if (!lock.held) {
        giveUp(undefined);
      } else if (left <= 0) {
        ended.cut();
        lock.release().catch(giveUp);
      } else {
        const pause = refreshes ? Math.min(left, lock.ttl / 3) : left;
        timer = setTimeout(next, Math.min(Math.max(Math.ceil(pause), 1), longestTimer));
      }
    };
    // A refresh that the circuit breaker stops is tried again; any other failure has ended the lock.
    const next = (): void => {
      if (refreshes && this.#left() > 0) lock.refresh().then(goOn, goOn);
      else goOn();
    };
    next();
  }

  #released(): LockNotHeldError {
    return new LockNotHeldError({ key: this.key, reason: "released" });
  }
}

/** The same lock, once it has been granted, to be held at least so long. */
export async function heldAtLeast(taken: Promise<Lock>, hold: LeastHold): Promise<Lock> {
  return new HeldAtLeast(await taken, hold);
}
