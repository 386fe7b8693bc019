import { type Settler, settledBy, unset } from "../runtime/settled-later.ts";
import type { StopSignal } from "../runtime/stop-signal.ts";
import type { LockStore } from "../sessions/grant.ts";
import {
  Attempt,
  type AttemptSurroundings,
  type Granted,
  type Hold,
  type How,
  type Wanted,
} from "./attempt.ts";

/**
 * Asks a store once.
 *
 * @param asked.signals each ends the attempt
 * @returns `undefined` if somebody else holds the lock
 * @throws the reason of a signal that ended it, or a fault
 */
export function askOnce<G extends Granted, H>(
  wanted: Wanted,
  around: AttemptSurroundings,
  asked: {
    store: LockStore<G>;
    hold: Hold<G, H>;
    how: How;
    signals: ReadonlyArray<StopSignal | undefined>;
  },
): Promise<H | undefined> {
  const { store, hold, how, signals } = asked;
  const attempt = new PromisedAttempt(wanted, around, hold);
  const answer = settledBy(attempt);
  attempt.ask(store, how, signals);
  return answer;
}

/** An attempt that settles a promise. */
class PromisedAttempt<G extends Granted, H> extends Attempt<G> implements Settler<H | undefined> {
  readonly #hold: Hold<G, H>;
  resolve: (lock: H | undefined) => void = unset;
  reject: (error: unknown) => void = unset;

  constructor(wanted: Wanted, around: AttemptSurroundings, hold: Hold<G, H>) {
    super(wanted, around);
    this.#hold = hold;
  }

  protected override onGranted(grant: G): void {
    this.resolve(this.#hold(grant, this.wanted));
  }

  protected override onHeld(): void {
    this.resolve(undefined);
  }

  protected override onFailed(error: unknown): void {
    this.reject(error);
  }
}
