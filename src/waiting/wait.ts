import { toError } from "../contract/caught-error.ts";
import { LockNotAcquiredError } from "../contract/errors.ts";
import { isPassing } from "../postgres/passing-fault.ts";
import { Alarm } from "../runtime/clock.ts";
import { debug } from "../runtime/debug-log.ts";
import { abandonOnAbort, Link, pauseFor, Stop, type StopSignal } from "../runtime/stop-signal.ts";
import type { Telemetry } from "../runtime/telemetry.ts";
import type { LockStore } from "../sessions/grant.ts";
import { askOnce } from "./ask-once.ts";
import type { AttemptSurroundings, Granted, Hold, How, Wanted } from "./attempt.ts";
import { PauseAfterFault } from "./pause-after-fault.ts";
import type { Poller, Polling } from "./polling.ts";
import type { Around } from "./reentrancy.ts";
import type { Place, WaitingLines } from "./waiting-lines.ts";

/**
 * Milliseconds of one wait in the server, after which the caller asks again. It is how old the oldest snapshot gets because of those
 * who wait, and how long `CREATE INDEX CONCURRENTLY` waits for each of them; a hundred that wait for 5 s each are 20 statements a
 * second.
 */
export const waitBound = 5_000;
/** Milliseconds that the first try of a wait may take, however short the wait is: a lock that is free is worth that. */
export const firstTry = 1_000;

/** Whose waits these are. */
export interface WaitSurroundings extends AttemptSurroundings {
  readonly telemetry: Telemetry;
  readonly lines: WaitingLines;
  readonly polling: Polling;
}

/** What is waited for. */
export interface AskedWait<G extends Granted, H> {
  readonly wanted: Wanted;
  readonly store: LockStore<G>;
  readonly hold: Hold<G, H>;
  /** The lock around the call: see `lockAround`. */
  readonly around: Around | undefined;
}

/**
 * One caller's wait for a lock, from its call to the grant, whatever becomes of the database meanwhile.
 *
 *     in line ──first──▶ trying ──refused──▶ waiting in the server ──bound──▶ waiting in the server …
 *                          ▲  └── no place ──▶ polling ──a place, a tick, a release here──▶ trying
 *                          └──── a fault, a pause ────┘
 */
export class Wait<G extends Granted, H> extends Link {
  readonly #around: WaitSurroundings;
  readonly #wanted: Wanted;
  readonly #store: LockStore<G>;
  readonly #hold: Hold<G, H>;
  readonly #own: Around | undefined;
  /** Whatever ends it: its caller's signal, the end of the locker, its bound. */
  readonly #over = new Stop();
  readonly #signals: readonly StopSignal[] = [this.#over];
  /** Its bound, by `performance.now()`. */
  readonly #until: number;
  /** The bound of its first try, as long as that is under way. */
  #tryUntil: number | undefined;
  #lastFault: Error | undefined;
  #isTold = false;
  /** Of its bound, or of that of its first try. */
  #alarm: Alarm<Wait<G, H>> | undefined;

  constructor(around: WaitSurroundings, asked: AskedWait<G, H>) {
    super();
    const { wanted, store, hold } = asked;
    this.#own = asked.around;
    this.#around = around;
    this.#wanted = wanted;
    this.#store = store;
    this.#hold = hold;
    const start = performance.now();
    this.#until = start + wanted.wait;
    this.#tryUntil = start + Math.max(wanted.wait, firstTry);
  }

  /** @throws {LockNotAcquiredError} {LockerClosedError} the reason of the caller's signal, or what no waiting mends */
  async untilGranted(): Promise<H> {
    const { id, mode, wait, signal, alsoEndedBy } = this.#wanted;
    const endedBy = [signal, alsoEndedBy].filter((each) => each !== undefined);
    const links = endedBy.map((each) => each.listen(() => this.#over.abort(each.reason)));
    this.#around.closing.add(this);
    const aborted = [...endedBy, this.#around.closing].find((each) => each.aborted);
    if (aborted !== undefined) this.#over.abort(aborted.reason);
    if (Number.isFinite(wait)) this.#alarm = new Alarm<Wait<G, H>>(this, Wait.#left, Wait.#end);
    try {
      if (this.#store.skipsLine) return await this.#goOn({ isFirst: true });
      const place = this.#around.lines.join(id, mode);
      if (!place.isFirst) this.#tell();
      let granted = false;
      try {
        const tryUntil = this.#tryUntil;
        if (!place.isFirst) this.#keepBound();
        await abandonOnAbort(place.turn, this.#signals);
        this.#tryUntil = tryUntil;
        const lock = await this.#goOn(place);
        granted = true;
        return lock;
      } finally {
        this.#around.lines.leave(place, granted);
      }
    } finally {
      this.#alarm?.stop();
      this.cut();
      for (const link of links) link.cut();
    }
  }

  /** That it waits, once. */
  #tell(): void {
    if (!this.#isTold) this.#around.telemetry.events.waiting(this.#wanted);
    this.#isTold = true;
  }

  /** It tries nothing for now, and nothing in the server ends its wait: its own bound does. */
  #keepBound(): void {
    this.#tryUntil = undefined;
    if (this.#wanted.wait < firstTry) this.#alarm?.reset();
  }

  /** The locker closes. */
  override onAbort(): void {
    this.#over.abort(this.#around.closing.reason);
  }

  static #left<G extends Granted, H>(this: void, wait: Wait<G, H>): number {
    return (wait.#tryUntil ?? wait.#until) - performance.now();
  }

  /** Its bound has passed. */
  static #end<G extends Granted, H>(this: void, of: Wait<G, H>): void {
    const { key, wait } = of.#wanted;
    const cause = of.#lastFault ?? (of.#around.hasConnected ? undefined : new Error("no answer"));
    const reentrant = of.#own?.isHeld() ?? false;
    of.#over.abort(new LockNotAcquiredError({ key, reason: "wait-timeout", waited: wait, reentrant, cause }));
  }

  /** Goes on until the lock is granted, in spite of any fault that waiting can mend. */
  async #goOn(place: Pick<Place, "isFirst">): Promise<H> {
    const pause = new PauseAfterFault();
    for (;;) {
      try {
        return await this.#waitInServer(place);
      } catch (error) {
        const ended = this.#over.aborted && this.#over.reason === error;
        if (ended || !isPassing(error, this.#around.hasConnected)) throw error;
        // What is wrong with a client of the caller's is the caller's to mend.
        if (this.#store.skipsLine && !(error instanceof LockNotAcquiredError)) throw error;
        const isFirst = this.#lastFault === undefined;
        this.#lastFault = toError(error);
        this.#around.telemetry.ridingOut(this.#wanted, this.#lastFault, { isFirst });
      }
      await pauseFor(pause.next(this.#lastFault), this.#signals);
    }
  }

  /** Tries, and then waits in the server; polls as long as there is no place to wait in. @throws a fault of the database */
  async #waitInServer(place: Pick<Place, "isFirst">): Promise<H> {
    const { polling, registry } = this.#around;
    const store = this.#store;
    let poller: Poller | undefined;
    let tries = store.skipsLine !== true;
    try {
      for (;;) {
        if (
          tries &&
          !registry.keepOut(this.#wanted) &&
          (poller !== undefined || (store.canTry?.() ?? true))
        ) {
          const lock = await this.#ask(poller === undefined ? "tryLock" : "pollLock");
          if (lock !== undefined) return lock;
        }
        tries = false;
        if (store.skipsLine !== true) {
          this.#tryUntil = undefined;
          this.#tell();
        }
        const left = this.#until - performance.now();
        if (left <= 0 && this.#tryUntil === undefined) Wait.#end(this);
        this.#over.throwIfAborted();
        const isNext = poller === undefined ? polling.isEmpty : polling.isOldest(poller);
        if (place.isFirst && (isNext || store.bringsPlace) && store.hasPlaceToWait?.()) {
          if (poller !== undefined) polling.leave(poller);
          poller = undefined;
          polling.offerPlace();
          const lock = await this.#ask(Math.min(waitBound, left));
          if (lock !== undefined) return lock;
          this.#tryUntil = undefined;
        } else {
          if (poller === undefined) this.#keepBound();
          poller ??= polling.join(this.#wanted.id);
          await abandonOnAbort(polling.sleep(poller), this.#signals);
          tries = true;
        }
      }
    } finally {
      if (poller !== undefined) polling.leave(poller);
    }
  }

  /** Asks once, and returns `undefined` if somebody else holds the lock. */
  #ask(how: How): Promise<H | undefined> {
    debug("wait", () => ({ key: this.#wanted.key, how: typeof how === "number" ? "in the server" : how }));
    return askOnce(this.#wanted, this.#around, {
      store: this.#store,
      hold: this.#hold,
      how,
      signals: this.#signals,
    });
  }
}
