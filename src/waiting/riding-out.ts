import { toError } from "../contract/caught-error.ts";
import { isPassing } from "../postgres/passing-fault.ts";
import { pauseFor, type StopSignal } from "../runtime/stop-signal.ts";
import type { Telemetry } from "../runtime/telemetry.ts";
import type { Wanted } from "./attempt.ts";
import { PauseAfterFault } from "./pause-after-fault.ts";

/** How one wait goes on in spite of the faults that waiting can mend. */
export class RidingOut {
  readonly #wanted: Wanted;
  readonly #around: { readonly telemetry: Telemetry; readonly hasConnected: boolean };
  readonly #pause = new PauseAfterFault();
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
    await pauseFor(this.#pause.next(fault), [end]);
  }
}
