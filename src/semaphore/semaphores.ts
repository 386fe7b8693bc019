import { LockNotAcquiredError } from "../contract/errors.ts";
import { holdAtLeastOf } from "../contract/hold-at-least.ts";
import type { Lock } from "../contract/lock.ts";
import type { CheckedDefaults } from "../contract/lock-defaults.ts";
import { keyText } from "../contract/lock-id.ts";
import { type LockKey, plainKey } from "../contract/lock-key.ts";
import type { AcquireOptions } from "../contract/locker.ts";
import { blockBits, blockOf, idAt, placeOf, semaphoreBlock } from "../contract/permit-block.ts";
import { assertPermits, type PermitOptions, type Semaphore } from "../contract/semaphore.ts";
import { heldAtLeast, type KeepingLocker } from "../holding/held-at-least.ts";
import {
  type UnreportedLock,
  UnreportedLocks,
  type UnreportedLocksParts,
} from "../holding/unreported-locks.ts";
import type { Abandoned, NotReserved } from "../postgres/reservation.ts";
import { throughBreaker } from "../runtime/circuit-breaker.ts";
import { aliveUntil } from "../runtime/process-life.ts";
import type { StopSignal } from "../runtime/stop-signal.ts";
import type { Grant, LockStore } from "../sessions/grant.ts";
import type { Admission } from "../waiting/admission.ts";
import type { Hold, Wanted } from "../waiting/attempt.ts";
import { lockAround } from "../waiting/reentrancy.ts";
import { LockerSemaphore } from "./locker-semaphore.ts";
import { keptPermit, otherNumber, PermitAttempt } from "./permit-attempt.ts";
import { Places } from "./places.ts";

/** The parts of a locker that its semaphores use. */
export interface SemaphoresParts extends UnreportedLocksParts {
  readonly admission: Admission;
  readonly defaults: CheckedDefaults;
  /** In milliseconds: a turnstile's longest TTL. */
  readonly defaultTtl: number;
  readonly store: LockStore<Grant> & {
    /** Where the server enforces TTLs. */
    readonly enforcing: LockStore<Grant>;
    /** Which ids of a block of 2^`bits` are held by anybody, as offsets from the first. An abort of `left` ends a wait for a connection. */
    heldIn(
      first: bigint,
      { bits, left }: { bits: number; left: StopSignal },
    ): Promise<readonly number[] | NotReserved | Abandoned>;
  };
  /** Checks the key and the options, and computes the lock id. @throws {LockerClosedError} */
  wanted(key: LockKey, options: AcquireOptions): Wanted;
  readonly locker: KeepingLocker;
}

/** The semaphores of a locker that are in use. */
export class Semaphores {
  readonly #parts: SemaphoresParts;
  readonly #unreported: UnreportedLocks;
  readonly #inUse = new Map<bigint, Places>();
  readonly #hold: Hold<Grant, UnreportedLock> = (grant, wanted) => this.#unreported.hold(grant, wanted);

  constructor(parts: SemaphoresParts) {
    this.#parts = parts;
    this.#unreported = new UnreportedLocks(parts);
  }

  /** How many registered locks are not permits of callers: turnstiles, and permits whose callers have not got them yet. */
  get unreported(): number {
    return this.#unreported.size;
  }

  /** Makes a semaphore. @throws {EmptyKeyError} @throws {InvalidKeyError} @throws {InvalidConfigError} */
  of(key: LockKey, permits: number): Semaphore {
    const text = keyText(key);
    // A copy, because the caller may change its array later.
    const own = plainKey(key, text);
    assertPermits(permits);
    const acquire = (options: PermitOptions): Promise<Lock> => this.#permit(own, permits, options);
    const { admission: owner, defaults } = this.#parts;
    return new LockerSemaphore({ owner, defaults, key: text, permits, acquire });
  }

  /** Called when a lock of the locker has been released, which may be a permit. */
  freed(id: bigint): void {
    if (this.#inUse.size === 0) return;
    const block = blockOf(id);
    const places = this.#inUse.get(block);
    if (places === undefined) return;
    places.freed(Number(id - block));
    this.#forgetUnused(block, places);
  }

  async #permit(key: LockKey, permits: number, options: PermitOptions): Promise<Lock> {
    const asked = this.#parts.wanted(key, options);
    const least = holdAtLeastOf(options);
    const wanted = { ...asked, id: semaphoreBlock(asked.id) };
    const { telemetry } = this.#parts.admission;
    const take = (permit: Wanted, how: Hold<Grant, UnreportedLock>): Promise<Lock> =>
      telemetry.observe("acquire", permit, permit.signal, () => this.#acquire(permit, permits, how));
    const hold = this.#hold;
    if (least === 0) return await take(wanted, hold);
    return await heldAtLeast({ ...wanted, holdAtLeast: least }, { hold, locker: this.#parts.locker, take });
  }

  async #acquire(wanted: Wanted, permits: number, hold: Hold<Grant, UnreportedLock>): Promise<Lock> {
    const { admission, store } = this.#parts;
    const { key, wait } = wanted;
    wanted.signal?.throwIfAborted();
    // A caller that holds all the permits itself would wait for ever.
    const ownHold = this.#hasAll(wanted, permits) ? { by: "withPermit" as const } : undefined;
    const places = this.#placesOf(wanted, permits);
    places.users += 1;
    const waits = wait > 0 && ownHold === undefined;
    if (waits) admission.waitBegan();
    else admission.began();
    try {
      const ttl = Math.min(wanted.ttl, this.#parts.defaultTtl);
      const turnstiles = { store: store.enforcing, ttl };
      const parts = { admission, store, turnstiles, hold, holdTurnstile: this.#hold };
      const attempt = new PermitAttempt(parts, places, wanted);
      const permit = waits ? await attempt.wait() : await aliveUntil(attempt.tryOnce());
      if (permit !== undefined) return permit;
      const own = ownHold ?? keptPermit(admission.registry, wanted, permits);
      throw new LockNotAcquiredError({ key, reason: "held", ownHold: own, permits });
    } finally {
      if (waits) admission.waitEnded();
      else admission.ended();
      places.users -= 1;
      this.#forgetUnused(wanted.id, places);
    }
  }

  #placesOf({ key, id }: Wanted, permits: number): Places {
    const known = this.#inUse.get(id);
    if (known !== undefined && known.permits !== permits) throw otherNumber(key, permits, known.permits);
    if (known !== undefined) return known;
    const places = new Places(permits, (left) => this.#look({ key, id }, left));
    this.#inUse.set(id, places);
    return places;
  }

  async #look(
    { key, id: block }: { key: string; id: bigint },
    left: StopSignal,
  ): Promise<ReadonlySet<number>> {
    const { admission, store } = this.#parts;
    const seen = await throughBreaker(admission.breaker, () =>
      store.heldIn(block, { bits: blockBits, left }),
    );
    if ("refused" in seen) {
      if (seen.refused === "abandoned") throw left.reason;
      throw new LockNotAcquiredError({ key, reason: seen.refused, waited: seen.waited });
    }
    admission.hasConnected = true;
    return new Set(seen);
  }

  /** Whether the `withPermit` functions around this call hold all the permits. */
  #hasAll({ id }: Wanted, permits: number): boolean {
    for (let place = 0; place < permits; place += 1) {
      if (lockAround(this.#parts.admission, idAt(id, placeOf(permits, place))) === undefined) return false;
    }
    return true;
  }

  #forgetUnused(block: bigint, places: Places): void {
    if (places.isUsed || this.#inUse.get(block) !== places) return;
    this.#inUse.delete(block);
    places.left.abort(new Error("nobody uses the semaphore any more"));
  }
}
