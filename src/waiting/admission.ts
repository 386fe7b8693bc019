import { LockerClosedError, LockNotAcquiredError } from "../contract/errors.ts";
import type { LockMode, Logger } from "../contract/locker.ts";
import { isPassing } from "../postgres/passing-fault.ts";
import { type CircuitBreaker, throughBreaker } from "../runtime/circuit-breaker.ts";
import { Alarm } from "../runtime/clock.ts";
import { abandonOnAbort, pauseFor, Stop, type StopSignal } from "../runtime/stop-signal.ts";
import type { LockRequest, Refusal } from "../sessions/grant.ts";
import { PauseAfterFault } from "./pause-after-fault.ts";
import { type Poller, Polling } from "./polling.ts";
import { isAround } from "./reentrancy.ts";
import { type Place, WaitingLines } from "./waiting-lines.ts";

/** What a caller asked for, in milliseconds where that is a time. */
export interface Wanted {
  readonly key: string;
  readonly id: bigint;
  readonly mode: LockMode;
  readonly ttl: number;
  readonly fencing: boolean;
  readonly autoRefresh: boolean;
  /** 0: try once. */
  readonly wait: number;
  /** Any of them ends the attempt. */
  readonly signals: ReadonlyArray<StopSignal | undefined>;
}

/** How a lock is got, and what its caller gets. */
export interface Attempt<G extends Granted, H> {
  /** Tries once. */
  tryLock(request: LockRequest): Promise<G | Refusal>;
  /** Whether a try would not have to queue for a connection first. Default: it wouldn't. */
  canTry?(): boolean;
  /** Tries once, as one of many that do so again and again. Default: {@link tryLock}. */
  pollLock?(request: LockRequest): Promise<G | Refusal>;
  /** Whether there is a place to wait in the server. Default: there is none. */
  hasPlaceToWait?(): boolean;
  /**
   * Waits in the server, for `bound` milliseconds at most or until {@link LockRequest.cancel}. Is refused at once if there is no
   * place to do so.
   */
  waitLock?(request: LockRequest, bound: number): Promise<G | Refusal>;
  /** It waits on a connection of its own, not on one of the few that others queue for. */
  readonly bringsPlace?: boolean;
  /** It waits in the server at once, without a try and past the line of its process. */
  readonly skipsLine?: boolean;
  /** Enters what was granted into the books; called in the very step in which it is sure that somebody wants it. */
  hold(granted: G, wanted: Wanted): H;
}

/** What can be given back if nobody wants it any more. */
export interface Granted {
  release(): Promise<unknown>;
}

export interface AdmissionParts {
  readonly log: Logger;
  readonly breaker: CircuitBreaker | undefined;
  /** The locker, as the functions that run under its locks know it. */
  readonly owner: object;
  /** Whether a holder of the key in this locker, whose end will be told to {@link Admission.wake}, keeps the caller out. */
  heldHere(wanted: Wanted): boolean;
  /** A key held in this locker that is another, but has the same id. */
  namesake(wanted: Wanted): string | undefined;
  /** A wait goes on in spite of a fault; `isFirst`: it is the first that this wait meets. */
  ridingOut(wanted: Wanted, fault: Error, which: { isFirst: boolean }): void;
}

/**
 * Milliseconds of one wait in the server, after which the caller asks again. It is how old the oldest snapshot gets because of those
 * who wait, and how long `CREATE INDEX CONCURRENTLY` waits for each of them; a hundred that wait for 5 s each are 20 statements a
 * second.
 */
export const waitBound = 5_000;
/** Milliseconds that the first try of a wait may take, however short the wait is: a lock that is free is worth that. */
const firstTry = 1_000;

/**
 * Decides who of a locker's callers tries for a lock, and when; and sees to it that what is granted to one who has left, or after the
 * end, is given back.
 *
 *     in line ──first──▶ trying ──refused──▶ waiting in the server ──bound──▶ waiting in the server …
 *                          ▲  └── no place ──▶ polling ──a place, a tick, a release here──▶ trying
 *                          └──── a fault, a pause ────┘
 */
export class Admission {
  readonly #parts: AdmissionParts;
  readonly #lines = new WaitingLines();
  readonly #polling = new Polling();
  readonly #closing = new Stop();
  /** How many attempts have no answer yet, or one that their caller, who has given up, left to be undone. */
  #underWay = 0;
  #onIdle: (() => void) | undefined;
  /** Whether the database has ever answered. */
  #hasConnected = false;

  constructor(parts: AdmissionParts) {
    this.#parts = parts;
  }

  /** @throws {LockerClosedError} */
  assertOpen(): void {
    this.#closing.throwIfAborted();
  }

  /** Ends every attempt and every wait, and lets nobody begin one. */
  stop(): void {
    this.#closing.abort(new LockerClosedError());
  }

  /** Settles when nothing is left of the attempts that {@link stop} has ended. Never rejects. */
  async close(endHeld: () => Promise<unknown>): Promise<void> {
    await endHeld();
    if (this.#underWay === 0) return;
    await new Promise<void>((resolve) => {
      this.#onIdle = resolve;
    });
  }

  /** The lock may be free: a holder of this locker has given it back, or has stopped relying on it. */
  wake(id: bigint): void {
    this.#polling.wake(id);
  }

  /** A place to wait in may be free. */
  offerPlace(): void {
    this.#polling.offerPlace();
  }

  /**
   * Takes the lock, after a wait if one is wanted.
   *
   * @throws {LockNotAcquiredError} what `tryLock` throws, {LockerClosedError}, or the reason of the caller's signal
   */
  async take<G extends Granted, H>(wanted: Wanted, attempt: Attempt<G, H>): Promise<H> {
    const { key, id, mode, wait, signals } = wanted;
    this.#underWay += 1;
    try {
      for (const signal of signals) signal?.throwIfAborted();
      // A wait for what the caller itself holds would have no end.
      const reentrant = isAround(this.#parts.owner, id);
      if (wait > 0 && !reentrant) return await this.#waitAndTake(wanted, attempt);
      // Readers that come one after the other would never let a writer in.
      const afterWriter = mode === "shared" && this.#lines.hasWriter(id);
      const left = [...signals, this.#closing];
      const lock = afterWriter ? undefined : await this.#ask(wanted, attempt, left, "tryLock");
      if (lock === undefined) throw new LockNotAcquiredError({ key, reason: "held", reentrant });
      return lock;
    } finally {
      this.#settled();
    }
  }

  async #waitAndTake<G extends Granted, H>(wanted: Wanted, attempt: Attempt<G, H>): Promise<H> {
    const { key, id, mode, wait } = wanted;
    const over = new Stop();
    const start = performance.now();
    const waiting: Waiting = {
      signals: [...wanted.signals, this.#closing, over],
      until: start + wait,
      tryUntil: start + Math.max(wait, firstTry),
      lastFault: undefined,
      end: () => {
        const cause = waiting.lastFault ?? (this.#hasConnected ? undefined : new Error("no answer"));
        over.abort(new LockNotAcquiredError({ key, reason: "wait-timeout", waited: wait, cause }));
      },
    };
    const alarm = new Alarm(
      waiting,
      ({ until, tryUntil }) => (tryUntil ?? until) - performance.now(),
      ({ end }) => end(),
    );
    if (attempt.skipsLine) {
      return await this.#goOn(wanted, attempt, waiting, { isFirst: true }).finally(() => alarm.stop());
    }
    const place = this.#lines.join(id, mode);
    let granted = false;
    try {
      await abandonOnAbort(place.turn, waiting.signals);
      const lock = await this.#goOn(wanted, attempt, waiting, place);
      granted = true;
      return lock;
    } finally {
      alarm.stop();
      this.#lines.leave(place, granted);
    }
  }

  /** Goes on until the lock is granted, whatever becomes of the database meanwhile. */
  async #goOn<G extends Granted, H>(
    wanted: Wanted,
    attempt: Attempt<G, H>,
    waiting: Waiting,
    place: Pick<Place, "isFirst">,
  ): Promise<H> {
    const pause = new PauseAfterFault();
    for (;;) {
      try {
        return await this.#waitInServer(wanted, attempt, waiting, place);
      } catch (error) {
        const ended = waiting.signals.some((signal) => signal?.aborted && signal.reason === error);
        if (ended || !isPassing(error, this.#hasConnected)) throw error;
        this.#parts.ridingOut(wanted, error as Error, { isFirst: waiting.lastFault === undefined });
        waiting.lastFault = error as Error;
      }
      await pauseFor(pause.next(waiting.lastFault), waiting.signals);
    }
  }

  /** Tries, and then waits in the server; polls as long as there is no place to wait in. @throws a fault of the database */
  async #waitInServer<G extends Granted, H>(
    wanted: Wanted,
    attempt: Attempt<G, H>,
    waiting: Waiting,
    place: Pick<Place, "isFirst">,
  ): Promise<H> {
    let poller: Poller | undefined;
    let tries = attempt.skipsLine !== true;
    try {
      for (;;) {
        if (
          tries &&
          !this.#parts.heldHere(wanted) &&
          (poller !== undefined || (attempt.canTry?.() ?? true))
        ) {
          const lock = await this.#ask(
            wanted,
            attempt,
            waiting.signals,
            poller === undefined ? "tryLock" : "pollLock",
          );
          if (lock !== undefined) return lock;
        }
        tries = false;
        if (attempt.skipsLine !== true) waiting.tryUntil = undefined;
        const left = waiting.until - performance.now();
        if (left <= 0 && waiting.tryUntil === undefined) waiting.end();
        for (const signal of waiting.signals) signal?.throwIfAborted();
        const isNext = poller === undefined ? this.#polling.isEmpty : this.#polling.isOldest(poller);
        if (place.isFirst && (isNext || attempt.bringsPlace) && attempt.hasPlaceToWait?.()) {
          if (poller !== undefined) this.#polling.leave(poller);
          poller = undefined;
          this.#polling.offerPlace();
          const lock = await this.#ask(wanted, attempt, waiting.signals, Math.min(waitBound, left));
          if (lock !== undefined) return lock;
          waiting.tryUntil = undefined;
        } else {
          poller ??= this.#polling.join(wanted.id);
          await abandonOnAbort(this.#polling.sleep(poller), waiting.signals);
          tries = true;
        }
      }
    } finally {
      if (poller !== undefined) this.#polling.leave(poller);
    }
  }

  /** Asks once, and returns `undefined` if somebody else holds the lock. */
  async #ask<G extends Granted, H>(
    wanted: Wanted,
    attempt: Attempt<G, H>,
    signals: ReadonlyArray<StopSignal | undefined>,
    /** A number: it waits in the server for that many milliseconds at most. */
    how: "tryLock" | "pollLock" | number,
  ): Promise<H | undefined> {
    const { key, id, mode, ttl, fencing } = wanted;
    const request: LockRequest = {
      key,
      id,
      mode,
      ttl,
      fencing,
      abandoned: false,
      sent: false,
      cancel: undefined,
    };
    // The breaker may take its time: a policy that is half open lets one through first.
    const asking = throughBreaker(this.#parts.breaker, () => {
      if (request.abandoned) return abandoned;
      if (how === "pollLock" && attempt.pollLock !== undefined) return attempt.pollLock(request);
      if (typeof how === "number" && attempt.waitLock !== undefined) return attempt.waitLock(request, how);
      return attempt.tryLock(request);
    });
    const answer = await abandonOnAbort(asking, signals, () => {
      request.abandoned = true;
      request.cancel?.();
      const undone = asking.then((late) => this.#undo(late)).catch(() => {});
      // While it waits for a connection, perhaps for long, it has nothing to undo.
      if (!request.sent) return;
      this.#underWay += 1;
      void undone.then(() => this.#settled());
    });
    if (this.#closing.aborted) {
      // close() came between the answer and this line, and found no handle to close.
      await this.#undo(answer);
      throw this.#closing.reason;
    }
    if (!("refused" in answer)) {
      this.#hasConnected = true;
      try {
        return attempt.hold(answer, wanted);
      } catch (error) {
        await this.#undo(answer);
        throw error;
      }
    }
    if (answer.refused === "pool-saturated") {
      throw new LockNotAcquiredError({ key, reason: answer.refused, waited: answer.waited });
    }
    if (answer.refused === "held" || answer.refused === "recovering") this.#hasConnected = true;
    if (answer.refused === "recovering") {
      throw new LockNotAcquiredError({ key, reason: answer.refused, graceLeft: answer.graceLeft });
    }
    const otherKey = this.#parts.namesake(wanted);
    if (otherKey !== undefined) throw new LockNotAcquiredError({ key, reason: "id-collision", otherKey });
    return undefined;
  }

  /** Gives back what was granted to a caller that has given up. A failure has ended the session, and the lock with it. */
  async #undo(answer: Granted | Refusal): Promise<void> {
    if ("refused" in answer) return;
    await answer.release().catch((err: unknown) => {
      this.#parts.log.debug({ err }, "giving back an abandoned lock failed; its session was ended");
    });
  }

  /** {@link close} waits for the last one. */
  #settled(): void {
    this.#underWay -= 1;
    if (this.#underWay === 0) this.#onIdle?.();
  }
}

/** A caller that waits. */
interface Waiting {
  /** Any of them ends it: the caller's, the locker's, and its bound. */
  readonly signals: ReadonlyArray<StopSignal | undefined>;
  /** Its bound, by `performance.now()`. */
  readonly until: number;
  /** The bound of its first try, as long as that is under way. */
  tryUntil: number | undefined;
  lastFault: Error | undefined;
  /** The bound has passed. */
  end(): void;
}

const abandoned: Promise<Refusal> = Promise.resolve({ refused: "abandoned" });
