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
export class Alarm<T> {
  readonly #owner: T;
  readonly #left: (owner: T) => number;
  readonly #ring: (owner: T) => void;
  #timer: NodeJS.Timeout | undefined;

  /**
   * The two functions are told whose alarm it is, so that ten thousand alarms can share them.
   *
   * @param left milliseconds to go, asked whenever the timer fires
   */
  constructor(owner: T, left: (owner: T) => number, ring: (owner: T) => void) {
    this.#owner = owner;
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
    const wait = Math.min(Math.max(Math.ceil(this.#left(this.#owner)), 1), longestTimer);
    this.#timer = setTimeout(fire, wait, this).unref();
  }

  /** The timer has fired. */
  look(): void {
    if (this.#left(this.#owner) > 0) this.#set();
    else this.#ring(this.#owner);
  }
}

function fire(alarm: { look(): void }): void {
  alarm.look();
}

/** Waits for an answer for so many milliseconds. @throws {Error} at the deadline, or what `work` throws */
export async function within<T>(deadline: number, work: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const overdue = new Promise<never>((_, reject) => {
    const late = (): void => reject(new Error(`no answer within ${Math.round(deadline)} ms`));
    timer = setTimeout(late, Math.min(deadline, longestTimer));
  });
  try {
    return await Promise.race([work, overdue]);
  } finally {
    clearTimeout(timer);
  }
}
