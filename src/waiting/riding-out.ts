import { toError } from "../contract/caught-error.ts";
import { LockNotAcquiredError } from "../contract/errors.ts";
import { isPassing } from "../postgres/passing-fault.ts";
import { pauseFor, type StopSignal } from "../runtime/stop-signal.ts";
import type { Telemetry } from "../runtime/telemetry.ts";
import type { Wanted } from "./attempt.ts";

/** Milliseconds between a fault and the next try: at first at most `shortestPause`, then up to `longestPause`. */
const shortestPause = 100;
const longestPause = 3_000;

/** Carries one wait through faults that pass by themselves, such as a restart of the server. */
export class RidingOut {
  readonly #wanted: Wanted;
  readonly #around: { readonly telemetry: Telemetry; readonly hasConnected: boolean };
  /** The longest that the next pause may take, in milliseconds. */
  #nextPause = shortestPause;
  #lastFault: Error | undefined;

  constructor(wanted: Wanted, around: { readonly telemetry: Telemetry; readonly hasConnected: boolean }) {
    this.#wanted = wanted;
    this.#around = around;
  }

  /** The latest fault, or `undefined` if there was none. */
  get lastFault(): Error | undefined {
    return this.#lastFault;
  }

  /**
   * Reports that the wait goes on, and pauses, longer each time.
   *
   * @throws `error` itself if it ended the wait, or if waiting can't mend it; the reason of `end` if that aborts during the pause
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

  /** Milliseconds until the next try: doubled each time, with jitter. */
  #pauseAfter(fault: Error): number {
    const atMost = this.#nextPause;
    this.#nextPause = Math.min(atMost * 2, longestPause);
    // The end of a recovery grace is known, but a witness may end it earlier.
    const graceLeft = fault instanceof LockNotAcquiredError ? fault.graceLeft : undefined;
    if (graceLeft !== undefined) return Math.min(graceLeft, longestPause);
    return atMost * (0.5 + Math.random() * 0.5);
  }
}
