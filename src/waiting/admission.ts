import { LockerClosedError, LockNotAcquiredError } from "../contract/errors.ts";
import type { LockMode, Logger } from "../contract/locker.ts";
import type { WakeUps } from "../postgres/release-listener.ts";
import { type CircuitBreaker, throughBreaker } from "../runtime/circuit-breaker.ts";
import { Alarm } from "../runtime/clock.ts";
import { abandonOnAbort, pauseFor, Stop, type StopSignal } from "../runtime/stop-signal.ts";
import type { LockRequest, Refusal } from "../sessions/grant.ts";
import { isAround } from "./reentrancy.ts";
import { TurnTaking } from "./turn-taking.ts";
import { Waiters } from "./waiters.ts";

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

/** How a lock is tried for, and what its caller gets. */
export interface Attempt<G extends Granted, H> {
  tryLock(request: LockRequest): Promise<G | Refusal>;
  /** Enters what was granted into the books; called in the very step in which it is sure that somebody wants it. */
  hold(granted: G, wanted: Wanted): H;
}

/** What can be given back where nobody wants it any more. */
export interface Granted {
  /** Of a reader that may be one of several here: whether somebody elsewhere waits for the lock. */
  readonly othersWait?: boolean | undefined;
  release(): Promise<unknown>;
}

export interface ArbiterParts extends WakeUps {
  readonly log: Logger;
  readonly breaker: CircuitBreaker | undefined;
  /** The locker, as the functions that run under its locks know it. */
  readonly owner: object;
  /** Whether a holder of the key in this locker, whose end will be told to {@link Arbiter.freed}, keeps the caller out. */
  heldHere(wanted: Wanted): boolean;
  /** A key held in this locker that is another, but has the same id. */
  namesake(wanted: Wanted): string | undefined;
}

/**
 * Decides who of a locker's callers tries for a lock, and when; and sees to it that what is granted to one who has left, or
 * after the end, is given back.
 */
export class Arbiter {
  readonly #parts: ArbiterParts;
  readonly #waiters: Waiters;
  readonly #turns = new TurnTaking();
  readonly #closing = new Stop();
  /** How many attempts have no answer yet, or one that their caller, who has given up, left to be undone. */
  #underWay = 0;
  #onIdle: (() => void) | undefined;

  constructor(parts: ArbiterParts) {
    this.#parts = parts;
    this.#waiters = new Waiters(parts);
  }

  /** @throws {LockerClosedError} */
  assertOpen(): void {
    this.#closing.throwIfAborted();
  }

  /** Ends every attempt and every wait; settles when nothing is left of them. Never rejects. */
  async close(endHeld: () => Promise<unknown>): Promise<void> {
    this.#closing.abort(new LockerClosedError());
    await endHeld();
    if (this.#underWay === 0) return;
    await new Promise<void>((resolve) => {
      this.#onIdle = resolve;
    });
  }

  /** The lock may be free: something was heard. */
  wake(id: bigint): void {
    this.#waiters.wake(id);
  }

  wakeAll(): void {
    this.#waiters.wakeAll();
  }

  /** A holder of this locker has given the lock back. `isShared`: others of this locker still have it. */
  freed(id: bigint, { othersWait, isShared }: { othersWait: boolean; isShared: boolean }): void {
    if (!isShared) this.#turns.released(id, othersWait);
    this.#waiters.wake(id);
  }

  /**
   * Takes the lock, after a wait where one is wanted.
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
      const afterWriter = mode === "shared" && (this.#waiters.hasWriter(id) || this.#turns.isShut(id));
      const lock = afterWriter ? undefined : await this.#try(wanted, attempt, [...signals, this.#closing]);
      if (lock === undefined) throw new LockNotAcquiredError({ key, reason: "held", reentrant });
      return lock;
    } finally {
      this.#settled();
    }
  }

  async #waitAndTake<G extends Granted, H>(wanted: Wanted, attempt: Attempt<G, H>): Promise<H> {
    const { key, id, mode, wait } = wanted;
    const left = [...wanted.signals, this.#closing];
    const over = new Stop();
    const start = performance.now();
    const alarm = new Alarm(
      undefined,
      () => start + wait - performance.now(),
      () => over.abort(new LockNotAcquiredError({ key, reason: "wait-timeout", waited: wait })),
    );
    const signals = [...left, over];
    let first = true;
    try {
      return await this.#waiters.wait({
        id,
        mode,
        signals,
        heldHere: () => this.#parts.heldHere(wanted) || (mode === "shared" && this.#turns.isShut(id)),
        attempt: () => {
          // However short the wait is, it is worth one try to its end.
          const trying = this.#try(wanted, attempt, first ? left : signals);
          first = false;
          return trying;
        },
      });
    } finally {
      alarm.stop();
    }
  }

  /** Tries once, and answers `undefined` where somebody else holds the lock. */
  async #try<G extends Granted, H>(
    wanted: Wanted,
    { tryLock, hold }: Attempt<G, H>,
    signals: ReadonlyArray<StopSignal | undefined>,
  ): Promise<H | undefined> {
    const { key, id, mode, ttl, fencing } = wanted;
    const pause = this.#turns.pause(id);
    if (pause > 0) await pauseFor(pause, signals);
    const oursHadIt = this.#parts.heldHere(wanted);
    const request: LockRequest = { key, id, mode, ttl, fencing, abandoned: false, sent: false };
    // The breaker may take its time: a policy that is half open lets one through first.
    const attempt = throughBreaker(this.#parts.breaker, () =>
      request.abandoned ? abandoned : tryLock(request),
    );
    const answer = await abandonOnAbort(attempt, signals, () => {
      request.abandoned = true;
      const undone = attempt.then((late) => this.#undo(late)).catch(() => {});
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
      const joins = mode === "shared" && this.#parts.heldHere({ ...wanted, mode: "exclusive" });
      if (joins && answer.othersWait !== undefined) this.#turns.joined(id, answer.othersWait);
      return hold(answer, wanted);
    }
    if (answer.refused === "pool-saturated") {
      throw new LockNotAcquiredError({ key, reason: answer.refused, waited: answer.waited });
    }
    // Where it was one of ours that kept it out, that says nothing of the others' turn.
    if (!oursHadIt && !this.#parts.heldHere(wanted)) this.#turns.lost(id);
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

const abandoned: Promise<Refusal> = Promise.resolve({ refused: "abandoned" });
