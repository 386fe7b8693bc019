import {
  assertAcquireOptions,
  assertKeys,
  assertScope,
  assertWait,
  drainOf,
  noOptions,
  signalOf,
} from "./contract/acquire-options.ts";
import type { SessionClient } from "./contract/clients.ts";
import type { ElectOptions } from "./contract/election.ts";
import { assertNoHoldAtLeast, holdAtLeastOf } from "./contract/hold-at-least.ts";
import { jsonSafe } from "./contract/json-safe.ts";
import type { Lock, LockGroup } from "./contract/lock.ts";
import { type CheckedDefaults, checkDefaults, type LockDefaults } from "./contract/lock-defaults.ts";
import type { LockEventListener, LockEventName } from "./contract/lock-events.ts";
import { fnv, keyText, type LockIdFunction, ownLockId } from "./contract/lock-id.ts";
import type { InspectOptions, LockInspection } from "./contract/lock-inspection.ts";
import type { LockKey } from "./contract/lock-key.ts";
import type {
  AbortSignalLike,
  AcquireOptions,
  CloseOptions,
  Locker,
  LockerStats,
  PingOptions,
  TryResult,
} from "./contract/locker.ts";
import type { Semaphore } from "./contract/semaphore.ts";
import type { UnderLock } from "./contract/under-lock.ts";
import { elect } from "./election/elect.ts";
import { holdAndEmit } from "./holding/event-hold.ts";
import { heldAtLeast } from "./holding/held-at-least.ts";
import type { HeldLock } from "./holding/held-lock.ts";
import { acquireInOrder } from "./holding/lock-group.ts";
import type { LockOwner } from "./holding/lock-owner.ts";
import { LockRegistry, type RegisteredLock } from "./holding/lock-registry.ts";
import { type NestedLock, takePart } from "./holding/nested-lock.ts";
import { ownLock } from "./holding/own-lock.ts";
import { HandleTracker, trackedHold } from "./holding/tracked-lock.ts";
import { wrappedFunction } from "./holding/wrapped-function.ts";
import type { LockState, LockToInspect } from "./inspection/lock-state.ts";
import type { CircuitBreaker } from "./runtime/circuit-breaker.ts";
import { Expiries } from "./runtime/expiries.ts";
import { channels } from "./runtime/lock-event-source.ts";
import { abandonOnAbort, stopSignalOf } from "./runtime/stop-signal.ts";
import type { Telemetry } from "./runtime/telemetry.ts";
import { Semaphores } from "./semaphore/semaphores.ts";
import type { Grant, LockStore } from "./sessions/grant.ts";
import type { LockerStore } from "./sessions/locker-store.ts";
import { Admission } from "./waiting/admission.ts";
import type { Granted, Hold, Wanted } from "./waiting/attempt.ts";
import { undefinedIfContended } from "./waiting/contention.ts";
import { runUnder } from "./waiting/reentrancy.ts";

export interface LockerCoreParts {
  /** An int32. */
  readonly namespace: number;
  /** `undefined`: as in the Go package. */
  readonly lockId: LockIdFunction | undefined;
  readonly telemetry: Telemetry;
  readonly breaker: CircuitBreaker | undefined;
  /** Checks the TTL of any other lock. @returns milliseconds @throws {InvalidTtlError} */
  assertTtl(got: unknown): number;
  /** Checks the TTL of a lock that is freed when its TTL passes, whatever has become of its holder. */
  assertEnforcedTtl(got: unknown): number;
  /** In milliseconds. */
  readonly defaultTtl: number;
  readonly defaults: LockDefaults | undefined;
  readonly store: LockerStore;
  /** The store for locks on a session of the caller's. @throws {InvalidConfigError} */
  storeOn(client: SessionClient): LockStore<Grant>;
  /** Who holds a lock and who waits for it, in any process. */
  look(lock: LockToInspect, signal: AbortSignalLike | undefined): Promise<LockState>;
}

/**
 * What is the same wherever locks live: options in, handles out, a registry of held locks, and a close that leaves nothing behind.
 *
 *     acquire ── admission: may it try now? ── store: granted ── handle, registry ──▶ held ── release ──▶ forgotten
 */
export class LockerCore implements Omit<Locker, "namespace" | typeof Symbol.asyncDispose> {
  readonly telemetry: Telemetry;
  /** Identifies the locker to functions that run under its locks. */
  readonly owner: object;
  readonly #parts: LockerCoreParts;
  readonly #defaults: CheckedDefaults;
  readonly #makeId: (namespace: number, key: LockKey, text: string) => bigint;
  readonly #registry = new LockRegistry();
  readonly #admission: Admission;
  readonly #owner: LockOwner;
  readonly #hold: Hold<Grant, HeldLock>;
  readonly #holdForCaller: Hold<Grant, Lock>;
  readonly #tracker: HandleTracker | undefined;
  /** Made for the first semaphore. */
  #semaphores: Semaphores | undefined;
  #closed: Promise<void> | undefined;

  constructor(parts: LockerCoreParts) {
    const { telemetry, breaker, assertTtl, lockId } = parts;
    this.telemetry = telemetry;
    this.#parts = parts;
    this.#defaults = checkDefaults(parts.defaults, { ttl: parts.defaultTtl, assertTtl });
    this.#makeId =
      lockId === undefined ? fnv : (namespace, key, text) => ownLockId(lockId, namespace, key, text);
    this.#admission = new Admission({ telemetry, breaker, registry: this.#registry });
    this.owner = this.#admission;
    this.#owner = {
      telemetry,
      breaker,
      expiries: new Expiries(),
      assertTtl,
      forget: (lock) => this.freed(lock),
      expired: ({ id }) => this.#admission.polling.wake(id),
    };
    this.#hold = this.#registry.holdBy(this.#owner);
    this.#tracker = telemetry.isLogged ? new HandleTracker(telemetry.log) : undefined;
    this.#holdForCaller = trackedHold(this.#hold, this.#tracker);
  }

  // Not async, because it is called most: the promise of the attempt is returned as it is.
  acquire(key: LockKey, options?: AcquireOptions): Promise<Lock> {
    try {
      const wanted = this.wanted(key, options === undefined ? noOptions : assertAcquireOptions(options));
      const least = options === undefined ? 0 : holdAtLeastOf(options);
      const hold = this.#holdForCaller;
      if (least === 0) return this.#takeOrPart(wanted, hold);
      return heldAtLeast({ ...wanted, holdAtLeast: least }, { hold, locker: this, take: this.#takeOrPart });
    } catch (error) {
      return Promise.reject(error);
    }
  }

  tryAcquire(key: LockKey, options?: AcquireOptions): Promise<Lock | undefined> {
    return this.acquire(key, options).catch(undefinedIfContended);
  }

  async acquireAll(keys: readonly LockKey[], options?: AcquireOptions): Promise<LockGroup> {
    const checkedKeys = assertKeys(keys);
    const checked = options === undefined ? noOptions : assertAcquireOptions(options);
    const wanted = checkedKeys.map((key) => this.wanted(key, checked));
    assertNoHoldAtLeast(options);
    return acquireInOrder(wanted, (one) => this.#takeOrPart(one, this.#hold));
  }

  async withLock<T>(key: LockKey, fn: (lock: Lock) => T | Promise<T>, options?: AcquireOptions): Promise<T> {
    const lock = await this.acquire(key, assertScope(fn, options, this.#defaults));
    return runUnder({ owner: this.owner, by: "withLock", locks: [lock] }, lock, fn);
  }

  tryAcquireAll(keys: readonly LockKey[], options?: AcquireOptions): Promise<LockGroup | undefined> {
    return this.acquireAll(keys, options).catch(undefinedIfContended);
  }

  async withLocks<T>(
    keys: readonly LockKey[],
    fn: (locks: LockGroup) => T | Promise<T>,
    options?: AcquireOptions,
  ): Promise<T> {
    const group = await this.acquireAll(keys, assertScope(fn, options, this.#defaults));
    return runUnder({ owner: this.owner, by: "withLocks", locks: group.locks }, group, fn);
  }

  wrapWithLock<F extends (this: never, ...args: never[]) => unknown>(
    key: LockKey | ((...args: Parameters<F>) => LockKey),
    fn: F,
    options?: AcquireOptions,
  ): UnderLock<F> {
    const checked = assertScope(fn, options, this.#defaults);
    const { assertTtl, storeOn } = this.#parts;
    const locker = { withLock: this.withLock.bind(this), assertTtl, storeOn };
    return wrappedFunction<F>(locker, { key, fn, options: checked });
  }

  async tryWithLock<T>(
    key: LockKey,
    fn: (lock: Lock) => T | Promise<T>,
    options?: AcquireOptions,
  ): Promise<TryResult<T>> {
    const lock = await this.tryAcquire(key, assertScope(fn, options, this.#defaults));
    if (lock === undefined) return { acquired: false };
    const value = await runUnder({ owner: this.owner, by: "tryWithLock", locks: [lock] }, lock, fn);
    return { acquired: true, value };
  }

  elect(key: LockKey, options: ElectOptions): Promise<void> {
    const { store, assertEnforcedTtl: assertTtl } = this.#parts;
    const hold = trackedHold(this.#registry.holdBy({ ...this.#owner, assertTtl }), this.#tracker);
    return elect(options, {
      owner: this.owner,
      log: this.telemetry.log,
      closing: this.#admission.closing,
      wanted: (how) => {
        const wanted = this.wanted(key, how);
        return { ...wanted, reentrant: undefined, ttl: assertTtl(how.ttl ?? wanted.ttl) };
      },
      take: (wanted) => this.take(wanted, store.enforcing, holdAndEmit(this.telemetry.events, hold)),
      holderOf: (id) => store.holderOf(id),
    });
  }

  semaphore(key: LockKey, permits: number): Semaphore {
    this.#semaphores ??= new Semaphores({
      admission: this.#admission,
      defaults: this.#defaults,
      defaultTtl: this.#parts.defaultTtl,
      store: this.#parts.store,
      owner: this.#owner,
      registry: this.#registry,
      tracker: this.#tracker,
      wanted: (of, options) => this.wanted(of, options),
      locker: this,
    });
    return this.#semaphores.of(key, permits);
  }

  async ping(options: PingOptions = {}): Promise<void> {
    this.#admission.closing.throwIfAborted();
    const signal = stopSignalOf(signalOf(options));
    await this.telemetry.observe("ping", undefined, signal, async () => {
      signal?.throwIfAborted();
      await abandonOnAbort(this.#parts.store.ping(), [signal]);
    });
  }

  /** @param endFirst ends whatever has to end before the sessions do */
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
      if (drain > 0) await this.#registry.drained(drain);
      await this.#admission.close(() => this.#registry.close());
      await endFirst?.();
      await this.#parts.store.close();
    });
    return this.#closed;
  }

  async inspect(key: LockKey, options: InspectOptions = {}): Promise<LockInspection> {
    this.#admission.closing.throwIfAborted();
    const text = keyText(key);
    const id = this.#makeId(this.#parts.namespace, key, text);
    const signal = signalOf(options);
    stopSignalOf(signal)?.throwIfAborted();
    const seen = await this.#parts.look({ id, own: () => this.#registry.with(id).map(ownLock) }, signal);
    return jsonSafe({
      key: text,
      id,
      held: seen.holders.length > 0,
      heldHere: seen.holders.some(({ own }) => own),
      ...seen,
      waitingHere: this.#admission.lines.lengthOf(id),
    });
  }

  async isHeld(key: LockKey, options?: InspectOptions): Promise<boolean> {
    return (await this.inspect(key, options)).held;
  }

  on<E extends LockEventName>(event: E, listener: LockEventListener<E>): () => void {
    return this.telemetry.events.on(event, listener);
  }

  stats(): LockerStats {
    const { inFlight, waiting } = this.#admission.counts;
    return {
      locks: this.#registry.size - (this.#semaphores?.unreported ?? 0),
      sessions: this.#parts.store.sessionCount,
      waiting,
      inFlight,
      closed: this.#closed !== undefined,
    };
  }

  /** A place to wait in the server may be free. */
  offerPlace(): void {
    this.#admission.polling.offerPlace();
  }

  /** Checks what a caller asks for. */
  wanted(key: LockKey, options: AcquireOptions): Wanted {
    this.#admission.closing.throwIfAborted();
    const { assertTtl, namespace } = this.#parts;
    const text = keyText(key);
    const defaults = this.#defaults;
    const {
      ttl,
      wait,
      mode = "exclusive",
      fencing = false,
      autoRefresh = defaults.autoRefresh ?? false,
      reentrant = false,
      client,
      signal,
    } = options;
    return {
      key: text,
      id: this.#makeId(namespace, key, text),
      mode,
      fencing,
      autoRefresh,
      reentrant,
      client,
      ttl: ttl === undefined ? defaults.ttl : assertTtl(ttl),
      wait: wait === undefined ? defaults.wait : assertWait(wait),
      signal: signal === undefined ? undefined : stopSignalOf(signal),
    };
  }

  /** Takes part in the lock of the function around it, if that is wanted and there is one; otherwise takes the lock. */
  readonly #takeOrPart = <H extends Lock>(wanted: Wanted, hold: Hold<Grant, H>): Promise<H | NestedLock> => {
    const part = wanted.reentrant ? takePart(this.owner, wanted) : undefined;
    if (part !== undefined) return part;
    const { events } = this.telemetry;
    const isHeard = events.listeners.size > 0 || channels.acquired.hasSubscribers;
    const told = isHeard ? holdAndEmit(events, hold) : hold;
    if (wanted.client === undefined) return this.take(wanted, this.#parts.store, told);
    return this.take(wanted, this.#parts.storeOn(wanted.client), told);
  };

  /** Tries or waits, as wanted, in the one order of all this locker's callers. */
  take<G extends Granted, H>(wanted: Wanted, store: LockStore<G>, hold: Hold<G, H>): Promise<H> {
    return this.telemetry.isTraced
      ? this.#takeInSpan(wanted, store, hold)
      : this.#admission.take(wanted, store, hold);
  }

  #takeInSpan<G extends Granted, H>(wanted: Wanted, store: LockStore<G>, hold: Hold<G, H>): Promise<H> {
    const take = (): Promise<H> => this.#admission.take(wanted, store, hold);
    return this.telemetry.inSpan("acquire", wanted, wanted.signal, take);
  }

  register(lock: RegisteredLock): void {
    this.#registry.add(lock);
  }

  /** Called when the server has nothing left of a lock. */
  freed(lock: RegisteredLock): void {
    this.#registry.delete(lock);
    this.#admission.polling.wake(lock.id);
    this.#semaphores?.freed(lock.id);
  }
}
