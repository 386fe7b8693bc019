import { LockNotAcquiredError } from "../contract/errors.ts";

/** Milliseconds. */
const first = 100;
const last = 3_000;

/** The pause between two tries while the database is in trouble: twice as long each time, and jittered. */
export class PauseAfterFault {
  #longest = first;

  /** @returns milliseconds until the next try */
  next(fault: Error): number {
    const longest = this.#longest;
    this.#longest = Math.min(longest * 2, last);
    // The end of a recovery grace is known, but a witness may end it earlier.
    const graceLeft = fault instanceof LockNotAcquiredError ? fault.graceLeft : undefined;
    if (graceLeft !== undefined) return Math.min(graceLeft, last);
    return longest * (0.5 + Math.random() * 0.5);
  }
}
