/** A moment on both clocks of the machine, in milliseconds. */
export interface Instant {
  readonly monotonic: number;
  readonly wall: number;
}

export function now(): Instant {
  return { monotonic: performance.now(), wall: Date.now() };
}

/**
 * Milliseconds since `start`, on whichever clock has moved further. The monotonic clock stands still while a machine is
 * suspended, the wall clock can be set back: a holder that trusts the larger of the two never believes too long.
 */
export function elapsedSince(start: Instant): number {
  return Math.max(performance.now() - start.monotonic, Date.now() - start.wall);
}

/** Milliseconds; Node fires a longer timer at once (https://nodejs.org/api/timers.html#settimeoutcallback-delay-args). */
export const longestTimer = 2 ** 31 - 1;

/**
 * Calls back when a moment is reached, which may be moved while it waits. Does not keep the process alive.
 *
 * Moving the moment later, as every refresh does, costs nothing: the timer that is set fires, looks, and sets the next.
 */
export class Alarm {
  readonly #left: () => number;
  readonly #ring: () => void;
  #timer: NodeJS.Timeout | undefined;

  /** @param left milliseconds to go, asked whenever the timer fires */
  constructor(left: () => number, ring: () => void) {
    this.#left = left;
    this.#ring = ring;
    this.#set();
  }

  /** The moment may have moved earlier. */
  reset(): void {
    this.stop();
    this.#set();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #set(): void {
    // A timer may fire up to a millisecond early; rounding up keeps it from firing twice for one moment.
    const wait = Math.min(Math.max(Math.ceil(this.#left()), 1), longestTimer);
    this.#timer = setTimeout(() => (this.#left() > 0 ? this.#set() : this.#ring()), wait).unref();
  }
}
