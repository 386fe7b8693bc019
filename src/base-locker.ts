import {
  assertAcquireOptions,
  assertKeys,
  assertPositiveTtl,
  assertScope,
  assertWait,
  drainOf,
  signalOf,
} from "./contract/acquire-options.ts";
import { LockNotAcquiredError } from "./contract/errors.ts";
import { lockId } from "./contract/lock-id.ts";
import type {
  AcquireOptions,
  CloseOptions,
  Lock,
  Locker,
  LockGroup,
  PingOptions,
  TryResult,
} from "./contract/locker.ts";
import { HeldLock, type Keeper } from "./holding/held-lock.ts";
import { acquireInOrder } from "./holding/lock-group.ts";
import { HeldLocks } from "./holding/lock-registry.ts";
import { HandleTracker } from "./holding/tracked-lock.ts";
import type { CircuitBreaker } from "./runtime/circuit-breaker.ts";
import { longestTimer } from "./runtime/clock.ts";
import { abandonOnAbort, stopSignalOf } from "./runtime/stop-signal.ts";
import type { Telemetry } from "./runtime/telemetry.ts";
import type { Grant } from "./sessions/grant.ts";
import { Admission, type Attempt, type Granted, type Wanted } from "./waiting/admission.ts";
import { runUnder } from "./waiting/reentrancy.ts";

/**
 * What is the same wherever locks live: options in, handles out, the books of what is held, and an end that leaves
 * nothing behind. A subclass grants.
 */
export abstract class BaseLocker implements Locker {
  readonly #namespace: number;
  readonly #defaultTtl: number;
  protected readonly telemetry: Telemetry;
  readonly #held = new HeldLocks<HeldLock>();
  readonly #admission: Admission;
  readonly #keeper: Keeper;
  readonly #attempt: Attempt<Grant, HeldLock>;
  readonly #attemptOfCaller: Attempt<Grant, Lock>;
  #closed: Promise<void> | undefined;
  /** Set while {@link close} waits for what is held. */
  #onFreed: (() => void) | undefined;

  constructor(parts: {
    namespace: number;
    telemetry: Telemetry;
    breaker?: CircuitBreaker | undefined;
    /** In milliseconds. Default: any that is positive and finite. */
    assertTtl?: (got: unknown) => number;
    /** In milliseconds. Default: 30 s. */
    defaultTtl?: number;
  }) {
    const { namespace, telemetry, breaker, assertTtl = assertPositiveTtl } = parts;
    this.#defaultTtl = parts.defaultTtl ?? defaultTtl;
    this.#namespace = namespace;
    this.telemetry = telemetry;
    this.#admission = new Admission({
      owner: this,
      log: telemetry.log,
      breaker,
      heldHere: (wanted) => this.heldHere(wanted),
      namesake: (wanted) => this.namesake(wanted),
      ridingOut: (wanted, fault, which) => telemetry.ridingOut(wanted, fault, which),
    });
    this.#keeper = {
      telemetry,
      breaker,
      assertTtl,
      forget: (lock) => {
        this.#held.delete(lock);
        this.freed(lock.id);
      },
      expired: (lock) => this.#admission.wake(lock.id),
    };
    this.#attempt = {
      ...this.attempt(),
      hold: (grant, wanted) => {
        const lock = new HeldLock(wanted, grant, this.#keeper);
        this.#held.add(lock);
        return lock;
      },
    };
    const tracker = telemetry.isLogged ? new HandleTracker(telemetry.log) : undefined;
    const { hold } = this.#attempt;
    this.#attemptOfCaller =
      tracker === undefined
        ? this.#attempt
        : { ...this.#attempt, hold: (grant, wanted) => tracker.track(hold(grant, wanted)) };
    // So that `const { acquire } = locker` works.
    this.acquire = this.acquire.bind(this);
    this.tryAcquire = this.tryAcquire.bind(this);
    this.acquireAll = this.acquireAll.bind(this);
    this.withLock = this.withLock.bind(this);
    this.tryWithLock = this.tryWithLock.bind(this);
    this.ping = this.ping.bind(this);
    this.close = this.close.bind(this);
  }

  /** How a lock is tried for, and waited for. */
  protected abstract attempt(): Omit<Attempt<Grant, unknown>, "hold">;
  /** As `ArbiterParts` has them. A subclass adds what it holds beside the handles. */
  protected heldHere(wanted: Pick<Lock, "key" | "id" | "mode">): boolean {
    return this.#held.keepOut(wanted);
  }
  protected namesake(wanted: Pick<Lock, "key" | "id">): string | undefined {
    return this.#held.namesake(wanted);
  }
  /** Whether anybody relies on a lock of this locker. */
  protected get isHolding(): boolean {
    return this.#held.isHolding;
  }
  protected abstract probe(): Promise<void>;
  /** Ends what the locker opened. Must not reject, and must not take longer than seconds. */
  protected abstract end(): Promise<void>;

  // Not async, as it is called most: the promise of `take` goes out as it is.
  acquire(key: string, options?: AcquireOptions): Promise<Lock> {
    try {
      return this.take(this.#lockWanted(key, options), this.#attemptOfCaller);
    } catch (error) {
      return Promise.reject(error);
    }
  }

  async tryAcquire(key: string, options?: AcquireOptions): Promise<Lock | undefined> {
    try {
      return await this.acquire(key, options);
    } catch (error) {
      if (error instanceof LockNotAcquiredError && contention.has(error.reason)) return undefined;
      throw error;
    }
  }

  async acquireAll(keys: readonly string[], options?: AcquireOptions): Promise<LockGroup> {
    const wanted = assertKeys(keys).map((key) => this.#lockWanted(key, options));
    return acquireInOrder(wanted, (one) => this.take(one, this.#attempt));
  }

  async withLock<T>(key: string, fn: (lock: Lock) => T | Promise<T>, options?: AcquireOptions): Promise<T> {
    return runUnder(this, await this.acquire(key, assertScope(fn, options)), fn);
  }

  async tryWithLock<T>(
    key: string,
    fn: (lock: Lock) => T | Promise<T>,
    options?: AcquireOptions,
  ): Promise<TryResult<T>> {
    const lock = await this.tryAcquire(key, assertScope(fn, options));
    return lock === undefined
      ? { acquired: false }
      : { acquired: true, value: await runUnder(this, lock, fn) };
  }

  async ping(options: PingOptions = {}): Promise<void> {
    this.#admission.assertOpen();
    const signal = stopSignalOf(signalOf(options));
    await this.telemetry.observe("ping", undefined, signal, async () => {
      signal?.throwIfAborted();
      await abandonOnAbort(this.probe(), [signal]);
    });
  }

  close(options?: CloseOptions): Promise<void> {
    if (this.#closed !== undefined) return this.#closed;
    let drain: number;
    try {
      drain = drainOf(options);
    } catch (error) {
      return Promise.reject(error);
    }
    this.#closed = this.telemetry.observe("close", undefined, undefined, async () => {
      this.#admission.stop();
      if (drain > 0) await this.#drained(drain);
      await this.#admission.close(() => Promise.all(this.#held.all().map((lock) => lock.close())));
      await this.end();
    });
    return this.#closed;
  }

  /** Resolves when nothing is held any more, after that many milliseconds at the latest. */
  #drained(milliseconds: number): Promise<void> {
    if (!this.isHolding) return Promise.resolve();
    return new Promise((resolve) => {
      const over = (): void => {
        clearTimeout(timer);
        clearInterval(look);
        this.#onFreed = undefined;
        resolve();
      };
      const timer = setTimeout(over, Math.min(milliseconds, longestTimer));
      const lookAgain = (): void => {
        if (!this.isHolding) over();
      };
      // A lock whose TTL passes is not given back.
      const look = setInterval(lookAgain, 100);
      this.#onFreed = lookAgain;
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** A place to wait in may be free. */
  protected offerPlace(): void {
    this.#admission.offerPlace();
  }

  /** What a caller asks for, checked. */
  protected wanted(key: string, options: AcquireOptions): Wanted {
    this.#admission.assertOpen();
    const id = lockId(this.#namespace, key);
    const {
      ttl = this.#defaultTtl,
      mode = "exclusive",
      fencing = false,
      autoRefresh = false,
      wait,
      signal,
    } = options;
    return {
      key,
      id,
      mode,
      fencing,
      autoRefresh,
      ttl: this.#keeper.assertTtl(ttl),
      wait: assertWait(wait),
      signals: [stopSignalOf(signal)],
    };
  }

  /** Tries or waits, as is wanted, in the order that all callers of this locker share. */
  protected take<G extends Granted, H>(wanted: Wanted, attempt: Attempt<G, H>): Promise<H> {
    const [signal] = wanted.signals;
    return this.telemetry.observe("acquire", wanted, signal, () => this.#admission.take(wanted, attempt));
  }

  /** A lock of this locker has been given back, and has left the registry. */
  protected freed(id: bigint): void {
    this.#admission.wake(id);
    this.#onFreed?.();
  }

  #lockWanted(key: string, options: AcquireOptions | undefined): Wanted {
    return this.wanted(key, options === undefined ? {} : assertAcquireOptions(options));
  }
}

/** Milliseconds. */
export const defaultTtl = 30_000;

const contention: ReadonlySet<string> = new Set(["held", "wait-timeout"]);
