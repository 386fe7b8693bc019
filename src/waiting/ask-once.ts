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
  return new Promise((resolve, reject) => {
    new PromisedAttempt(wanted, around, { hold, resolve, reject }).ask(store, how, signals);
  });
}

/** An attempt that settles a promise. */
class PromisedAttempt<G extends Granted, H> extends Attempt<G> {
  readonly #wanted: Wanted;
  readonly #hold: Hold<G, H>;
  readonly #resolve: (lock: H | undefined) => void;
  readonly #reject: (error: unknown) => void;

  constructor(
    wanted: Wanted,
    around: AttemptSurroundings,
    parts: { hold: Hold<G, H>; resolve(lock: H | undefined): void; reject(error: unknown): void },
  ) {
    super(wanted, around);
    this.#wanted = wanted;
    this.#hold = parts.hold;
    this.#resolve = parts.resolve;
    this.#reject = parts.reject;
  }

  protected override onGranted(grant: G): void {
    this.#resolve(this.#hold(grant, this.#wanted));
  }

  protected override onHeld(): void {
    this.#resolve(undefined);
  }

  protected override onFailed(error: unknown): void {
    this.#reject(error);
  }
}
