import { LockNotAcquiredError } from "../contract/errors.ts";
import type { LockMode } from "../contract/locker.ts";
import { monotonic } from "../runtime/clock.ts";
import { Queue, type Queued } from "../runtime/queue.ts";
import { abandonOnAbort, Stop, type StopSignal } from "../runtime/stop-signal.ts";
import { boundAlarm } from "./wait-bound.ts";

interface Waiter {
  readonly mode: LockMode;
  readonly admit: () => void;
  queued: Queued<Waiter> | undefined;
  isIn: boolean;
}

/**
 * Orders the calls that share one lock inside the function that holds it. They are let in one at a time, in order of arrival; readers that
 * follow each other are let in together.
 */
export class SiblingGate {
  readonly #waiters = new Queue<Waiter>();
  #readers = 0;
  #hasWriter = false;

  /**
   * Lets a caller in, after a wait of at most `wait` milliseconds.
   *
   * @returns a function to call on leaving; a second call does nothing
   * @throws {LockNotAcquiredError} a sibling stayed in for the whole wait; or the reason of a signal
   */
  async enter(wanted: {
    readonly key: string;
    readonly mode: LockMode;
    readonly wait: number;
    readonly wholeWait?: number;
    readonly signals: ReadonlyArray<StopSignal | undefined>;
  }): Promise<() => void> {
    const { key, mode, wait, wholeWait = wait, signals } = wanted;
    for (const signal of signals) signal?.throwIfAborted();
    if (this.#waiters.size === 0 && this.#admits(mode)) {
      this.#count(mode, 1);
      return this.#leaver(mode);
    }
    if (wait <= 0) throw new LockNotAcquiredError({ key, reason: "held" });
    const over = new Stop();
    let admit = (): void => {};
    const turn = new Promise<void>((resolve) => {
      admit = resolve;
    });
    const waiter: Waiter = { mode, admit, queued: undefined, isIn: false };
    waiter.queued = this.#waiters.push(waiter);
    const alarm = boundAlarm({
      start: monotonic(),
      bound: wait,
      isFirstTry: false,
      atBound: () => over.abort(new LockNotAcquiredError({ key, reason: "wait-timeout", waited: wholeWait })),
    });
    try {
      await abandonOnAbort(turn, [...signals, over], () => {
        // The caller may have been let in already, without having noticed.
        if (waiter.isIn) this.#count(mode, -1);
        else this.#drop(waiter);
        this.#advance();
      });
    } finally {
      alarm.stop();
    }
    return this.#leaver(mode);
  }

  #admits(mode: LockMode): boolean {
    return !this.#hasWriter && (mode === "shared" || this.#readers === 0);
  }

  #count(mode: LockMode, more: 1 | -1): void {
    if (mode === "shared") this.#readers += more;
    else this.#hasWriter = more === 1;
  }

  #leaver(mode: LockMode): () => void {
    let isIn = true;
    return () => {
      if (!isIn) return;
      isIn = false;
      this.#count(mode, -1);
      this.#advance();
    };
  }

  #advance(): void {
    for (;;) {
      const waiter = this.#waiters.first;
      if (waiter === undefined || !this.#admits(waiter.mode)) return;
      this.#drop(waiter);
      this.#count(waiter.mode, 1);
      waiter.isIn = true;
      waiter.admit();
    }
  }

  #drop({ queued }: Waiter): void {
    if (queued !== undefined) this.#waiters.remove(queued);
  }
}
