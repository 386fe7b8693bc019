import {
  assertAcquireOptions,
  assertKeys,
  assertScope,
  assertWait,
  drainOf,
  signalOf,
} from "./contract/acquire-options.ts";
import type { ElectOptions, Leader } from "./contract/election.ts";
import { LockNotAcquiredError } from "./contract/errors.ts";
import { assertNoHoldAtLeast, holdAtLeastOf } from "./contract/hold-at-least.ts";
import { lockId } from "./contract/lock-id.ts";
import type {
  AcquireOptions,
  CloseOptions,
  Lock,
  Locker,
  LockerStats,
  LockGroup,
  PingOptions,
  TryResult,
} from "./contract/locker.ts";
import type { Semaphore } from "./contract/semaphore.ts";
import { elect } from "./election/elect.ts";
import { heldAtLeast } from "./holding/held-at-least.ts";
import { HeldLock, type LockOwner } from "./holding/held-lock.ts";
import { acquireInOrder } from "./holding/lock-group.ts";
import { LockRegistry, type RegisteredLock } from "./holding/lock-registry.ts";
import { HandleTracker } from "./holding/tracked-lock.ts";
import type { NotReserved } from "./postgres/reservation.ts";
import type { CircuitBreaker } from "./runtime/circuit-breaker.ts";
import { longestTimer } from "./runtime/clock.ts";
import { Expiries } from "./runtime/expiries.ts";
import { abandonOnAbort, stopSignalOf } from "./runtime/stop-signal.ts";
import type { Telemetry } from "./runtime/telemetry.ts";
import { Semaphores } from "./semaphore/semaphores.ts";
import type { Grant, LockStore } from "./sessions/grant.ts";
import { Admission } from "./waiting/admission.ts";
import type { Granted, Hold, Wanted } from "./waiting/attempt.ts";
import { runUnder } from "./waiting/reentrancy.ts";

/** Milliseconds. */
export const defaultTtl = 30_000;

/** Where the locks of a locker live, and what is opened for them. */
export interface LockerStore extends LockStore<Grant> {
  /** Proves that locks could be taken now. */
  ping(): Promise<void>;
  /** Ends what was opened. Never rejects, and takes seconds at most. */
  close(): Promise<void>;
  /** Whether a lock whose TTL has passed is free, whatever has become of its holder. */
  readonly freesExpired: boolean;
  /** Who holds the lock alone, and is seen to. */
  holderOf(id: bigint): Promise<Omit<Leader, "isSelf"> | undefined>;
  /** Which of a block of 2^`bits` ids anybody holds, counted from the first one. */
  heldIn(first: bigint, bits: number): Promise<readonly number[] | NotReserved>;
  /** How many sessions carry locks, or are waited on. */
  readonly sessionCount: number;
}

export interface LockerCoreParts {
  /** An int32. */
  readonly namespace: number;
  readonly telemetry: Telemetry;
  readonly breaker: CircuitBreaker | undefined;
  /** @returns milliseconds @throws {InvalidTtlError} */
  assertTtl(got: unknown): number;
  /** In milliseconds. */
  readonly defaultTtl: number;
  readonly store: LockerStore;
}

/**
 * What is the same wherever locks live: options in, handles out, a registry of what is held, and an end that leaves nothing behind.
 *
 *     acquire ── admission: may it try now? ── store: granted ── handle, registry ──▶ held ── release ──▶ forgotten
 */
export class LockerCore implements Omit<Locker, typeof Symbol.asyncDispose> {
  readonly telemetry: Telemetry;
  readonly #parts: LockerCoreParts;
  readonly #registry = new LockRegistry();
  readonly #admission: Admission;
  readonly #owner: LockOwner;
  readonly #hold: Hold<Grant, HeldLock>;
  readonly #holdForCaller: Hold<Grant, Lock>;
  readonly #semaphores: Semaphores;
  #closed: Promise<void> | undefined;
  /** Set while {@link close} waits for what is held. */
  #onFreed: (() => void) | undefined;

  constructor(parts: LockerCoreParts) {
    const { telemetry, breaker, assertTtl } = parts;
    this.telemetry = telemetry;
    this.#parts = parts;
    this.#admission = new Admission({ telemetry, breaker, registry: this.#registry });
    this.#owner = {
      telemetry,
      breaker,
      expiries: new Expiries(),
      assertTtl,
      forget: (lock) => this.freed(lock),
      expired: ({ id }) => this.#admission.wake(id),
    };
    this.#hold = (grant, wanted) => {
      const lock = new HeldLock(wanted, grant, this.#owner);
      this.#registry.add(lock);
      return lock;
    };
    const tracker = telemetry.isLogged ? new HandleTracker(telemetry.log) : undefined;
    this.#holdForCaller =
      tracker === undefined ? this.#hold : (grant, wanted) => tracker.track(this.#hold(grant, wanted));
    this.#semaphores = new Semaphores({
      admission: this.#admission,
      store: parts.store,
      hold: this.#hold,
      holdForCaller: this.#holdForCaller,
      wanted: (key, options) => this.wanted(key, options),
    });
  }

  /** As the functions that run under its locks know it. */
  get owner(): object {
    return this.#admission;
  }

  // Not async, as it is called most: the promise of the attempt goes out as it is.
  acquire(key: string, options?: AcquireOptions): Promise<Lock> {
    try {
      const wanted = this.#lockWanted(key, options);
      const least = holdAtLeastOf(options);
      const taken = this.take(wanted, this.#parts.store, this.#holdForCaller);
      if (least === 0) return taken;
      return heldAtLeast(taken, { least, autoRefresh: wanted.autoRefresh, log: this.telemetry.log });
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
    assertNoHoldAtLeast(options);
    return acquireInOrder(wanted, (one) => this.take(one, this.#parts.store, this.#hold));
  }

  async withLock<T>(key: string, fn: (lock: Lock) => T | Promise<T>, options?: AcquireOptions): Promise<T> {
    return runUnder(this.owner, await this.acquire(key, assertScope(fn, options)), fn);
  }

  async tryWithLock<T>(
    key: string,
    fn: (lock: Lock) => T | Promise<T>,
    options?: AcquireOptions,
  ): Promise<TryResult<T>> {
    const lock = await this.tryAcquire(key, assertScope(fn, options));
    return lock === undefined
      ? { acquired: false }
      : { acquired: true, value: await runUnder(this.owner, lock, fn) };
  }

  elect(key: string, options: ElectOptions): Promise<void> {
    const { store } = this.#parts;
    return elect(key, options, {
      owner: this.owner,
      log: this.telemetry.log,
      closing: this.#admission.closing,
      freesExpired: store.freesExpired,
      wanted: (ttl) => this.wanted(key, ttl),
      acquire: (of, how) => this.acquire(of, how),
      holderOf: (id) => store.holderOf(id),
    });
  }

  semaphore(key: string, permits: number): Semaphore {
    return this.#semaphores.of(key, permits);
  }

  async ping(options: PingOptions = {}): Promise<void> {
    this.#admission.assertOpen();
    const signal = stopSignalOf(signalOf(options));
    await this.telemetry.observe("ping", undefined, signal, async () => {
      signal?.throwIfAborted();
      await abandonOnAbort(this.#parts.store.ping(), [signal]);
    });
  }

  /** @param endFirst what is to end before the sessions do */
  close(options?: CloseOptions, endFirst?: () => Promise<void>): Promise<void> {
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
      await this.#admission.close(() => this.#registry.close());
      await endFirst?.();
      await this.#parts.store.close();
    });
    return this.#closed;
  }

  stats(): LockerStats {
    const { inFlight, waiting } = this.#admission.counts;
    return {
      locks: this.#registry.size,
      sessions: this.#parts.store.sessionCount,
      waiting,
      inFlight,
      closed: this.#closed !== undefined,
    };
  }

  /** A place to wait in may be free. */
  offerPlace(): void {
    this.#admission.offerPlace();
  }

  /** What a caller asks for, checked. */
  wanted(key: string, options: AcquireOptions): Wanted {
    this.#admission.assertOpen();
    const { namespace, assertTtl } = this.#parts;
    const id = lockId(namespace, key);
    const {
      ttl = this.#parts.defaultTtl,
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
      ttl: assertTtl(ttl),
      wait: assertWait(wait),
      signal: stopSignalOf(signal),
    };
  }

  /** Tries or waits, as is wanted, in the order that all callers of this locker share. */
  take<G extends Granted, H>(wanted: Wanted, store: LockStore<G>, hold: Hold<G, H>): Promise<H> {
    return this.telemetry.isTraced
      ? this.telemetry.inSpan("acquire", wanted, wanted.signal, () =>
          this.#admission.take(wanted, store, hold),
        )
      : this.#admission.take(wanted, store, hold);
  }

  register(lock: RegisteredLock): void {
    this.#registry.add(lock);
  }

  /** Nothing of a lock is left in the server. */
  freed(lock: RegisteredLock): void {
    this.#registry.delete(lock);
    this.#admission.wake(lock.id);
    this.#semaphores.freed(lock.id);
    this.#onFreed?.();
  }

  /** Resolves when nothing is held any more, after that many milliseconds at the latest. */
  #drained(milliseconds: number): Promise<void> {
    if (!this.#registry.isHolding) return Promise.resolve();
    return new Promise((resolve) => {
      const over = (): void => {
        clearTimeout(timer);
        clearInterval(look);
        this.#onFreed = undefined;
        resolve();
      };
      const timer = setTimeout(over, Math.min(milliseconds, longestTimer));
      const lookAgain = (): void => {
        if (!this.#registry.isHolding) over();
      };
      // A lock whose TTL passes is not given back.
      const look = setInterval(lookAgain, 100);
      this.#onFreed = lookAgain;
    });
  }

  #lockWanted(key: string, options: AcquireOptions | undefined): Wanted {
    return this.wanted(key, options === undefined ? noOptions : assertAcquireOptions(options));
  }
}

const noOptions: AcquireOptions = {};
const contention: ReadonlySet<string> = new Set(["held", "wait-timeout"]);
