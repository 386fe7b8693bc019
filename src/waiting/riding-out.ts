import { toError } from "../contract/caught-error.ts";
import { LockNotAcquiredError } from "../contract/errors.ts";
import { isPassing } from "../postgres/passing-fault.ts";
import { pauseFor, type StopSignal } from "../runtime/stop-signal.ts";
import type { Telemetry } from "../runtime/telemetry.ts";
import type { Wanted } from "./attempt.ts";

/** Milliseconds. */
const shortestPause = 100;
const longestPause = 3_000;

/** How one wait goes on in spite of the faults that waiting can mend. */
export class RidingOut {
  readonly #wanted: Wanted;
  readonly #around: { readonly telemetry: Telemetry; readonly hasConnected: boolean };
  /** Milliseconds that the next pause may take at most. */
  #nextPause = shortestPause;
  #lastFault: Error | undefined;

  constructor(wanted: Wanted, around: { readonly telemetry: Telemetry; readonly hasConnected: boolean }) {
    this.#wanted = wanted;
    this.#around = around;
  }

  /** The last fault that waiting can mend; `undefined`: there was none. */
  get lastFault(): Error | undefined {
    return this.#lastFault;
  }

  /**
   * Says that the wait goes on, and pauses: for longer each time.
   *
   * @throws the error itself, if it is what ended the wait, or no waiting mends it; or what ends the wait during the pause
   */
  async after(error: unknown, end: StopSignal): Promise<void> {
    const isEnd = end.aborted && end.reason === error;
    if (isEnd || !isPassing(error, this.#around.hasConnected)) throw error;
    const isFirst = this.#lastFault === undefined;
    const fault = toError(error);
    this.#lastFault = fault;
    this.#around.telemetry.ridingOut(this.#wanted, fault, { isFirst });
    await pauseFor(this.#pauseAfter(fault), [end]);
  }

  /** Milliseconds until the next try: twice as long each time, and jittered. */
  #pauseAfter(fault: Error): number {
    const atMost = this.#nextPause;
    this.#nextPause = Math.min(atMost * 2, longestPause);
    // The end of a recovery grace is known, but a witness may end it earlier.
    const graceLeft = fault instanceof LockNotAcquiredError ? fault.graceLeft : undefined;
    if (graceLeft !== undefined) return Math.min(graceLeft, longestPause);
    return atMost * (0.5 + Math.random() * 0.5);
  }
}
