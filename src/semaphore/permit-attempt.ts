import { aboutKey, DatabaseError, InvalidConfigError } from "../contract/errors.ts";
import type { Lock } from "../contract/lock.ts";
import type { OwnHold } from "../contract/not-acquired-sentence.ts";
import { idAt, permitsOf, placeOf, turnstile } from "../contract/permit-block.ts";
import { quote } from "../contract/plain-text.ts";
import type { UnreportedLock } from "../holding/unreported-locks.ts";
import { monotonic } from "../runtime/clock.ts";
import { abandonOnAbort, Stop } from "../runtime/stop-signal.ts";
import type { Grant, LockStore } from "../sessions/grant.ts";
import type { Admission } from "../waiting/admission.ts";
import { askOnce } from "../waiting/ask-once.ts";
import type { Hold, Holdings, Wanted } from "../waiting/attempt.ts";
import { RidingOut } from "../waiting/riding-out.ts";
import { untilGranted } from "../waiting/wait.ts";
import { type Bounded, boundAlarm, boundHasPassed } from "../waiting/wait-bound.ts";
import type { Places, Seen } from "./places.ts";

/** What an attempt needs of the locker. */
export interface PermitAttemptParts {
  readonly admission: Admission;
  readonly store: LockStore<Grant>;
  /**
   * Where turnstiles are taken, and their TTL in milliseconds. The server enforces it even if it doesn't enforce the TTLs of permits:
   * otherwise a waiter that is stopped or cut off while it has the turnstile would keep every permit from everybody.
   */
  readonly turnstiles: { readonly store: LockStore<Grant>; readonly ttl: number };
  /** Makes the handle of a permit. */
  readonly hold: Hold<Grant, UnreportedLock>;
  /** Makes the handle of a turnstile, which is never reported. */
  readonly holdTurnstile: Hold<Grant, UnreportedLock>;
}

/** Milliseconds between two checks of the waiter that has the turnstile: short at first, then longer. */
const shortestRest = 20;
const longestRest = 250;

//   first try ──refused, a fault──▶ tried ──in line for the turnstile──▶ waiting
type State = "first try" | "tried" | "waiting";

/**
 * One caller's attempt at a permit.
 *
 *     checking ──a place is free, nobody waits──▶ taking it ──granted──▶ checking that all give the same number ──▶ granted
 *        │                                           └── somebody was quicker ──▶ checking
 *        └── none is free, or others wait ──▶ refused, or in line for the turnstile ──its turn──▶ checking, again and again …
 *
 * The turnstile is a lock for which waiters queue in the server, and whose TTL the server enforces. Among the waiters of all processes,
 * only its holder checks for a free place, until it has one.
 *
 * Every caller takes a place first, and then checks what number of permits the other holders give. So of two callers that give different
 * numbers at the same time, at least one sees the other.
 */
export class PermitAttempt implements Bounded {
  readonly start = monotonic();
  readonly #parts: PermitAttemptParts;
  readonly #places: Places;
  /** What the caller asks for; `id` is the first id of the semaphore's block. */
  readonly #wanted: Wanted;
  /** Aborts when the attempt ends: by its caller's signal, `close()`, or the bound of its wait. */
  readonly #over = new Stop();
  readonly #ridingOut: RidingOut;
  #state: State = "first try";

  constructor(parts: PermitAttemptParts, places: Places, wanted: Wanted) {
    this.#parts = parts;
    this.#places = places;
    this.#wanted = wanted;
    this.#ridingOut = new RidingOut(wanted, parts.admission);
  }

  /** Tries once. @returns `undefined` if no permit is free, or others wait for one */
  tryOnce(): Promise<Lock | undefined> {
    return this.#untilOver(async () =>
      this.#places.waiting > 0 ? undefined : await this.#takeFree({ isNext: false }),
    );
  }

  /** Waits for a permit, through faults of the database. @throws {LockNotAcquiredError} `"wait-timeout"` */
  wait(): Promise<Lock> {
    return this.#untilOver(() => this.#wait());
  }

  async #untilOver<T>(work: () => Promise<T>): Promise<T> {
    const { signal } = this.#wanted;
    const { closing } = this.#parts.admission;
    const ends = [signal, closing].filter((each) => each !== undefined);
    const links = ends.map((each) => each.listen(() => this.#over.abort(each.reason)));
    try {
      const already = ends.find((each) => each.aborted);
      if (already !== undefined) throw already.reason;
      return await work();
    } finally {
      for (const link of links) link.cut();
    }
  }

  async #wait(): Promise<Lock> {
    const alarm = boundAlarm(this);
    const firstTryIsOver = (): void => {
      if (this.#state !== "first try") return;
      this.#state = "tried";
      alarm.reset();
    };
    try {
      for (;;) {
        try {
          let permit: Lock | undefined;
          if (this.#places.waiting === 0) permit = await this.#takeFree({ isNext: false });
          firstTryIsOver();
          permit ??= await this.#waitInLine();
          if (permit !== undefined) return permit;
        } catch (error) {
          firstTryIsOver();
          await this.#ridingOut.after(error, this.#over);
        }
      }
    } finally {
      alarm.stop();
    }
  }

  get isFirstTry(): boolean {
    return this.#state === "first try";
  }

  get bound(): number {
    return this.#wanted.wait;
  }

  atBound(): void {
    const { lastFault } = this.#ridingOut;
    const { admission } = this.#parts;
    const { permits } = this.#places;
    const ownHold = keptPermit(admission.registry, this.#wanted, permits);
    this.#over.abort(boundHasPassed(this.#wanted, admission, { lastFault, ownHold, permits }));
  }

  /** Waits for the turnstile, and then for a free place. @returns `undefined` if the turnstile was lost before a place was free */
  async #waitInLine(): Promise<Lock | undefined> {
    const places = this.#places;
    const { admission, turnstiles, holdTurnstile: hold } = this.#parts;
    const { store } = turnstiles;
    let turn: Lock | undefined;
    places.waiting += 1;
    if (this.#state !== "waiting") admission.telemetry.events.waiting(this.#wanted);
    this.#state = "waiting";
    try {
      const wanted = {
        ...this.#wanted,
        id: idAt(this.#wanted.id, turnstile),
        ttl: turnstiles.ttl,
        holdAtLeast: undefined,
        autoRefresh: true,
        wait: Number.POSITIVE_INFINITY,
        alsoEndedBy: this.#over,
        isSilent: true,
      };
      ({ lock: turn } = await untilGranted(admission, { wanted, store, hold, around: undefined }));
      for (let rest = shortestRest; turn.held; rest = Math.min(rest * 1.5, longestRest)) {
        const since = places.timesFreed;
        const permit = await this.#takeFree({ isNext: true });
        if (permit !== undefined) return permit;
        await places.rest(rest * (0.8 + Math.random() * 0.4), since, [this.#over]);
      }
      return undefined;
    } finally {
      places.waiting -= 1;
      // The caller need not wait for this release: close() does, because the turnstile is registered, and a failure has ended its session.
      turn?.release().catch(() => {});
    }
  }

  async #takeFree({ isNext }: { isNext: boolean }): Promise<Lock | undefined> {
    for (;;) {
      const seen = await this.#look();
      if (!isNext && this.#places.isQueued(seen)) return undefined;
      const at = this.#places.pickFree(seen);
      if (at === undefined) return undefined;
      const permit = await this.#places.reserve(at, () => this.#take(at));
      if (permit !== undefined) return permit;
    }
  }

  async #take(at: number): Promise<Lock | undefined> {
    const places = this.#places;
    const { admission, store, hold } = this.#parts;
    const wanted = { ...this.#wanted, id: idAt(this.#wanted.id, at), wait: 0, alsoEndedBy: this.#over };
    const signals = [wanted.signal, this.#over];
    const granted = await askOnce(wanted, admission, { store, hold, how: "tryLock", signals });
    if (granted === undefined) return undefined;
    const { lock: permit } = granted;
    const { isBacked } = places;
    places.hold(at, permit);
    try {
      if (!isBacked) await this.#look();
      this.#over.throwIfAborted();
      assertStillHeld(permit);
    } catch (error) {
      // Nobody gets the permit, so its release need not be waited for.
      permit.release().catch(() => {});
      throw error;
    }
    places.prove(at);
    granted.report();
    admission.telemetry.events.acquired(permit, this.start);
    return permit;
  }

  /** Checks which places are held. @throws {InvalidConfigError} a holder has given another number of permits */
  async #look(): Promise<Seen> {
    const { key } = this.#wanted;
    const { permits } = this.#places;
    const seen = await abandonOnAbort(this.#places.look(), [this.#over]).catch((error: unknown) => {
      throw aboutKey(error, key);
    });
    for (const at of seen) {
      if (at !== turnstile && permitsOf(at) !== permits) throw otherNumber(key, permits, permitsOf(at));
    }
    return seen;
  }
}

/** Checks that a permit has not ended during the second check. @throws {DatabaseError} its TTL has passed, or its session has ended */
function assertStillHeld(permit: Lock): void {
  try {
    permit.assertHeld();
  } catch (error) {
    const cause = (error as Error).cause ?? error;
    throw new DatabaseError({ doing: "Taking a permit", key: permit.key, cause });
  }
}

/** The permit that becomes free first of those that this locker keeps after their release; `undefined` if it keeps none. */
export function keptPermit(
  registry: Holdings,
  { key, id }: Pick<Wanted, "key" | "id">,
  permits: number,
): OwnHold | undefined {
  let first: OwnHold | undefined;
  for (let place = 0; place < permits; place += 1) {
    const own = registry.ownHold({ key, id: idAt(id, placeOf(permits, place)), mode: "exclusive" });
    if (own?.until !== undefined && (first?.until === undefined || own.until < first.until)) first = own;
  }
  return first;
}

export function otherNumber(key: string, permits: number, others: number): InvalidConfigError {
  const wants = `${others}, the number that the current holders of the semaphore ${quote(key)} gave`;
  return new InvalidConfigError({ field: "permits", got: permits, wants });
}
