import type { Lock } from "../contract/lock.ts";
import type { Grant, LockStore } from "../sessions/grant.ts";
import { Attempt, type AttemptSurroundings, type Hold, type Wanted } from "../waiting/attempt.ts";

/** Tries once for a place. @returns `undefined` if somebody else holds it @throws the reason of a signal that ends it, or a fault */
export function tryPlace(
  wanted: Wanted,
  around: AttemptSurroundings,
  { store, hold }: { store: LockStore<Grant>; hold: Hold<Grant, Lock> },
): Promise<Lock | undefined> {
  return new Promise((resolve, reject) => {
    new PlaceAttempt(wanted, around, { hold, resolve, reject }).ask(store, "tryLock", [
      wanted.signal,
      wanted.alsoEndedBy,
    ]);
  });
}

class PlaceAttempt extends Attempt<Grant> {
  readonly #wanted: Wanted;
  readonly #parts: {
    readonly hold: Hold<Grant, Lock>;
    resolve(permit: Lock | undefined): void;
    reject(error: unknown): void;
  };

  constructor(
    wanted: Wanted,
    around: AttemptSurroundings,
    parts: {
      hold: Hold<Grant, Lock>;
      resolve(permit: Lock | undefined): void;
      reject(error: unknown): void;
    },
  ) {
    super(wanted, around);
    this.#wanted = wanted;
    this.#parts = parts;
  }

  protected override onGranted(grant: Grant): void {
    this.#parts.resolve(this.#parts.hold(grant, this.#wanted));
  }

  protected override onHeld(): void {
    this.#parts.resolve(undefined);
  }

  protected override onFailed(error: unknown): void {
    this.#parts.reject(error);
  }
}
