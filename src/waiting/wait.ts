import { LockNotAcquiredError } from "../contract/errors.ts";
import type { LockMode } from "../contract/locker.ts";
import { type Alarm, monotonic, soon } from "../runtime/clock.ts";
import { debug, isDebugged } from "../runtime/debug-log.ts";
import { type Settler, settledBy, unset } from "../runtime/settled-later.ts";
import { abandonOnAbort, Link, Stop, type StopSignal } from "../runtime/stop-signal.ts";
import type { Telemetry } from "../runtime/telemetry.ts";
import type { LockStore } from "../sessions/grant.ts";
import { askOnce } from "./ask-once.ts";
import type { AttemptSurroundings, Granted, Hold, How, Wanted } from "./attempt.ts";
import type { Poller, Polling } from "./polling.ts";
import { type Around, ownHoldOf } from "./reentrancy.ts";
import { RidingOut } from "./riding-out.ts";
import { type Bounded, boundAlarm, boundHasPassed, firstTry } from "./wait-bound.ts";
import type { InLine, Place, WaitingLines } from "./waiting-lines.ts";

/**
 * Milliseconds of one wait in the server, after which the caller asks again. It bounds how old a snapshot gets because of waiters, and how
 * long `CREATE INDEX CONCURRENTLY` waits for each of them. A hundred waiters with 5 s each send 20 statements a second.
 */
export const waitBound = 5_000;

/** What a wait needs of its locker. */
export interface WaitSurroundings extends AttemptSurroundings {
  readonly telemetry: Telemetry;
  readonly lines: WaitingLines;
  readonly polling: Polling;
}

/** A call for a lock: what is asked for, and of whom. */
export interface LockCall<G extends Granted, H> {
  readonly wanted: Wanted;
  readonly store: LockStore<G>;
  readonly hold: Hold<G, H>;
  /** The lock around the call: see `lockAround`. */
  readonly around: Around | undefined;
}

//   in line ──its turn──▶ trying ──refused──▶ waiting ──granted, ended, a fault that no waiting mends──▶ over
//      │                     └──granted, ended, such a fault──▶ over
//      └── its caller's signal, close(), its bound ──▶ over
type State =
  | { readonly is: "in line" }
  /**
   * The first try of its turn is under way, or about to be. `end` aborts with whatever ends the wait, and so ends what is under way.
   */
  | { readonly is: "trying"; readonly end: Stop }
  /** In the server or between two tries. */
  | { readonly is: "waiting"; readonly end: Stop }
  | { readonly is: "over" };

const inLine: State = { is: "in line" };
const over: State = { is: "over" };

/**
 * One caller's wait for a lock, from its call to the grant, through faults of the database.
 *
 *     in line ──first──▶ trying ──refused──▶ waiting in the server ──bound──▶ waiting in the server …
 *                          ▲  └── no place ──▶ polling ──a place, a tick, a release here──▶ trying
 *                          └──── a fault, a pause ────┘
 *
 * Thousands of callers may stand in line, so a wait in line is this one object, without a promise, a signal or a suspended function. What it
 * needs to go to the database is made at its turn. The object itself is the link by which close() ends it.
 */
export abstract class Wait<G extends Granted, H> extends Link implements InLine, Bounded {
  readonly id: bigint;
  readonly mode: LockMode;
  readonly #around: WaitSurroundings;
  readonly wanted: Wanted;
  readonly #store: LockStore<G>;
  readonly #hold: Hold<G, H>;
  readonly #own: Around | undefined;
  readonly start = monotonic();
  #state: State = inLine;
  /** The place in line; `undefined` if this wait skips the line. */
  #place: Place | undefined;
  /** What carries the wait through faults; `undefined` before its turn. */
  #ridingOut: RidingOut | undefined;
  /** Whether the event `waiting` has been emitted. */
  #isTold = false;
  /** Rings at the bound of the wait, or of its first try. Absent if the wait has no bound. */
  #alarm: Alarm<Bounded> | undefined;
  /** Its links to signals, apart from close(). */
  #links: Link[] | undefined;

  constructor(around: WaitSurroundings, { wanted, store, hold, around: own }: LockCall<G, H>) {
    super();
    this.id = wanted.id;
    this.mode = wanted.mode;
    this.#own = own;
    this.#around = around;
    this.wanted = wanted;
    this.#store = store;
    this.#hold = hold;
  }

  // One of these two is called, once.
  protected abstract onGranted(lock: H): void;
  /**
   * Called with a {@link LockNotAcquiredError}, a {@link LockerClosedError}, the reason of the caller's signal, or a fault that no waiting
   * mends.
   */
  protected abstract onFailed(error: unknown): void;

  /** Begins the wait, unless something has ended it already. */
  begin(): void {
    const { closing, lines } = this.#around;
    const { signal, alsoEndedBy } = this.wanted;
    const isOpen = closing.add(this);
    this.#endOn(signal);
    this.#endOn(alsoEndedBy);
    if (!isOpen) this.#end(closing.reason);
    if (this.#state.is === "over") return;
    if (!this.#store.skipsLine) this.#place = lines.join(this);
    const end = this.#isFirst ? this.#beginToGo() : undefined;
    if (end === undefined) this.#tell();
    if (Number.isFinite(this.bound)) this.#alarm = boundAlarm(this);
    if (end === undefined) return;
    // A wait that skips the line is sent at once, so that what the caller sends next on its own client comes after it.
    if (this.#place === undefined) void this.#go(end);
    else this.#goSoon(end);
  }

  #endOn(signal: StopSignal | undefined): void {
    if (signal === undefined || this.#state.is === "over") return;
    this.#links ??= [];
    this.#links.push(signal.listen(() => this.#end(signal.reason)));
    // A signal may abort at the very moment it is asked.
    if (signal.aborted) this.#end(signal.reason);
  }

  /** Lets the wait go to the database. A second call does nothing. */
  onTurn(): void {
    if (this.#state.is === "in line") this.#goSoon(this.#beginToGo());
  }

  #goSoon(end: Stop): void {
    // Not at once, because the caller before it may have left the line in the middle of an abort or of close(), and because a caller that
    // leaves right after its call should ask nothing of the server.
    soon(() => void this.#go(end));
  }

  #beginToGo(): Stop {
    const end = new Stop();
    this.#state = { is: "trying", end };
    return end;
  }

  /** Whether nobody stands before it. */
  get #isFirst(): boolean {
    return this.#place === undefined || this.#around.lines.isFirst(this.#place);
  }

  /** Tries and waits until the lock is granted or the wait has ended. Never rejects. */
  async #go(end: Stop): Promise<void> {
    let lock: H;
    try {
      // The wait may have ended between its turn and this step.
      end.throwIfAborted();
      lock = await this.#untilGranted(end);
    } catch (error) {
      this.#leave({ granted: false });
      this.onFailed(error);
      return;
    }
    this.#leave({ granted: true });
    this.onGranted(lock);
  }

  /** Ends the wait, unless it is over: at once if it stands in line, otherwise as soon as the request under way has ended. */
  #end(reason: unknown): void {
    if (this.#state.is === "trying" || this.#state.is === "waiting") {
      this.#state.end.abort(reason);
    } else if (this.#state.is === "in line") {
      this.#leave({ granted: false });
      this.onFailed(reason);
    }
  }

  /** Makes the wait over: takes it out of the line, stops its alarm and cuts its links to signals. */
  #leave({ granted }: { granted: boolean }): void {
    this.#state = over;
    this.#alarm?.stop();
    this.cut();
    if (this.#links !== undefined) for (const link of this.#links) link.cut();
    if (this.#place !== undefined) this.#around.lines.leave(this.#place, granted);
  }

  /** Called when the locker closes. */
  override onAbort(): void {
    this.#end(this.#around.closing.reason);
  }

  /** Emits the event `waiting`, once. */
  #tell(): void {
    if (!this.#isTold && !this.wanted.isSilent) this.#around.telemetry.events.waiting(this.wanted);
    this.#isTold = true;
  }

  /** Called when the first try is over. */
  #tried(): void {
    if (this.#state.is === "trying") this.#state = { is: "waiting", end: this.#state.end };
  }

  /** Called when the caller begins to poll: the alarm then rings at the bound, because no request is under way that the server would end. */
  #keepBound(): void {
    this.#tried();
    if (this.bound < firstTry) this.#alarm?.reset();
  }

  get bound(): number {
    return this.wanted.wait;
  }

  get isFirstTry(): boolean {
    return this.#state.is === "trying";
  }

  atBound(): void {
    const lastFault = this.#ridingOut?.lastFault;
    const ownHold = ownHoldOf(this.#own, this.wanted, this.#around.registry);
    this.#end(boundHasPassed(this.wanted, this.#around, { lastFault, ownHold }));
  }

  /** Tries again after each fault that waiting can mend, until the lock is granted. */
  async #untilGranted(end: Stop): Promise<H> {
    const ridingOut = new RidingOut(this.wanted, this.#around);
    this.#ridingOut = ridingOut;
    for (;;) {
      try {
        return await this.#waitInServer(end);
      } catch (error) {
        // Only the caller can mend what is wrong with its own client.
        if (this.#store.skipsLine && !(error instanceof LockNotAcquiredError)) throw error;
        await ridingOut.after(error, end);
      }
    }
  }

  /** Tries, and then waits in the server; polls while there is no place to wait there. @throws a fault of the database */
  async #waitInServer(end: Stop): Promise<H> {
    const { polling, registry } = this.#around;
    const store = this.#store;
    let poller: Poller | undefined;
    let tries = store.skipsLine !== true;
    try {
      for (;;) {
        if (tries && !registry.keepOut(this.wanted) && (poller !== undefined || (store.canTry?.() ?? true))) {
          const lock = await this.#ask(poller === undefined ? "tryLock" : "pollLock", end);
          if (lock !== undefined) return lock;
        }
        tries = false;
        if (store.skipsLine !== true) {
          this.#tried();
          this.#tell();
        }
        const left = this.start + this.bound - monotonic();
        if (left <= 0 && !this.isFirstTry) this.atBound();
        end.throwIfAborted();
        const isNext = poller === undefined ? polling.isEmpty : polling.isOldest(poller);
        if (this.#isFirst && (isNext || store.bringsPlace) && store.hasPlaceToWait?.()) {
          if (poller !== undefined) polling.leave(poller);
          poller = undefined;
          polling.offerPlace();
          const lock = await this.#ask(Math.min(waitBound, left), end);
          if (lock !== undefined) return lock;
          this.#tried();
        } else {
          if (poller === undefined) this.#keepBound();
          poller ??= polling.join(this.wanted.id);
          await abandonOnAbort(polling.sleep(poller), [end]);
          tries = true;
        }
      }
    } finally {
      if (poller !== undefined) polling.leave(poller);
    }
  }

  /** Asks once, and returns `undefined` if somebody else holds the lock. */
  #ask(how: How, end: Stop): Promise<H | undefined> {
    if (isDebugged)
      debug("wait", { key: this.wanted.key, how: typeof how === "number" ? "in the server" : how });
    return askOnce(this.wanted, this.#around, {
      store: this.#store,
      hold: this.#hold,
      how,
      signals: [end],
    });
  }
}

/** Waits until the lock is granted. Metrics don't count this wait. @throws what {@link Wait} fails with */
export function untilGranted<G extends Granted, H>(
  around: WaitSurroundings,
  asked: LockCall<G, H>,
): Promise<H> {
  const wait = new PromisedWait(around, asked);
  const granted = settledBy(wait);
  wait.begin();
  return granted;
}

class PromisedWait<G extends Granted, H> extends Wait<G, H> implements Settler<H> {
  resolve: (lock: H) => void = unset;
  reject: (error: unknown) => void = unset;

  protected override onGranted(lock: H): void {
    this.resolve(lock);
  }

  protected override onFailed(error: unknown): void {
    this.reject(error);
  }
}
