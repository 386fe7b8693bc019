import { inspect } from "node:util";
import { LockNotHeldError } from "../contract/errors.ts";
import type { Lock, RefreshOptions } from "../contract/lock.ts";
import type { Duration, LockMode, Logger } from "../contract/locker.ts";
import { longestTimer } from "../runtime/clock.ts";
import { type Link, stopSignalOf } from "../runtime/stop-signal.ts";
import { jsonOf } from "./shown-lock.ts";

/** The share of a TTL for which a lock needs no refresh; the rest allows for the server's margin and a slow timer. */
const unrefreshedShare = 0.9;

export interface LeastHold {
  /** How long to hold the lock at least, in milliseconds from its grant. */
  readonly least: number;
  /** Whether the lock refreshes itself. */
  readonly autoRefresh: boolean;
  readonly log: Logger;
}

//   held ──release(), early──▶ kept: released for its caller, held for everybody else ──the time has passed──▶ free
//    │                          └── the session ends, a refresh fails, close() ──▶ free
//    └──release(), later, or a loss ──▶ as any lock
/**
 * A lock that stays in the server for a minimum time after its grant, however early its caller releases it.
 *
 * The time is measured by the monotonic clock alone, which stands still while the machine is suspended: the lock is then held too long
 * rather than too short.
 */
class HeldAtLeast implements Lock {
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  readonly #lock: Lock;
  readonly #hold: LeastHold;
  /** When the minimum time is up, by `performance.now()`. */
  readonly #until: number;
  #isReleased = false;
  #controller: AbortController | undefined;
  /** Passes a loss on to the caller, until the caller releases the lock. */
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

  /** What `JSON.stringify` writes, with each `bigint` as a string. */
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
    // From now on a loss doesn't concern the caller.
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

  /** Keeps the lock until the minimum time is up, and then releases it. */
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

/** Wraps a lock, once it has been granted, so that it is held for a minimum time. */
export async function heldAtLeast(taken: Promise<Lock>, hold: LeastHold): Promise<Lock> {
  return new HeldAtLeast(await taken, hold);
}
