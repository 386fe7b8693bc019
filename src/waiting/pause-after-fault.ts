import { LockNotAcquiredError } from "../contract/errors.ts";

/** Milliseconds. */
const first = 100;
const last = 3_000;

/** Between two tries as long as the database is in trouble: twice as long each time, and not the same for all. */
export class PauseAfterFault {
  #longest = first;

  /** @returns milliseconds until the next try */
  next(fault: Error): number {
    const longest = this.#longest;
    this.#longest = Math.min(longest * 2, last);
    // The end of a recovery grace is known; and yet a witness may come before that.
    const graceLeft = fault instanceof LockNotAcquiredError ? fault.graceLeft : undefined;
    if (graceLeft !== undefined) return Math.min(graceLeft, last);
    return longest * (0.5 + Math.random() * 0.5);
  }
}
