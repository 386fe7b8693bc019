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
 * suspended, the wall clock can be set back: a holder that goes by the larger of the two never relies on its lock for too long.
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

/** Milliseconds of a deadline that pass at once, at most: as much as a process that stands still loses of it. */
const longestStep = 500;

/**
 * Calls `owner.late()` after that many milliseconds, unless it is cleared before. Time in which the process stood still (a blocked event loop,
 * SIGSTOP) hardly counts: a connection takes several messages to make, none of which could be answered in that time.
 *
 * Such a process finds its timers due before it has read its sockets. So when the time has passed, one poll phase of the event loop
 * goes by first: whatever has arrived by then is read, and clears the deadline
 * (https://nodejs.org/en/learn/asynchronous-work/event-loop-timers-and-nexttick).
 */
export class Deadline {
  readonly #owner: { late(): void };
  #left: number;
  #timer: NodeJS.Timeout | undefined;
  #lastLook: NodeJS.Immediate | undefined;

  constructor(milliseconds: number, owner: { late(): void }) {
    this.#owner = owner;
    this.#left = Math.min(milliseconds, longestTimer);
    this.#set();
  }

  clear(): void {
    clearTimeout(this.#timer);
    if (this.#lastLook !== undefined) clearImmediate(this.#lastLook);
  }

  #set(): void {
    const step = Math.min(this.#left, longestStep);
    this.#left -= step;
    this.#timer = setTimeout(Deadline.#look, step, this);
  }

  static #look(this: void, deadline: Deadline): void {
    if (deadline.#left > 0) {
      deadline.#set();
      return;
    }
    // The first immediate ends the poll phase that was due; the second one, a phase that began after the timer.
    deadline.#lastLook = setImmediate(() => {
      deadline.#lastLook = setImmediate(() => deadline.#owner.late());
    });
  }
}

/** Waits that many milliseconds for an answer. @throws {Error} at the deadline, or what `work` throws */
export async function within<T>(milliseconds: number, work: Promise<T>): Promise<T> {
  let deadline: Deadline | undefined;
  const overdue = new Promise<never>((_, reject) => {
    deadline = new Deadline(milliseconds, {
      late: () => reject(new Error(`no answer within ${Math.round(milliseconds)} ms`)),
    });
  });
  try {
    return await Promise.race([work, overdue]);
  } finally {
    deadline?.clear();
  }
}

/**
 * Waits for an answer that is worth nothing once a TTL has passed. Unlike {@link within}, it counts the time in which the process stood
 * still, because the TTL runs meanwhile.
 *
 * @param left milliseconds to go, as of now
 * @throws {Error} when the TTL has passed, or what `work` throws
 */
export async function withinTtl<T>(left: () => number, work: Promise<T>): Promise<T> {
  const given = Math.round(left());
  let alarm: Alarm<undefined> | undefined;
  const passed = new Promise<never>((_, reject) => {
    alarm = new Alarm(undefined, left, () => reject(new Error(`no answer within ${given} ms`)));
  });
  try {
    return await Promise.race([work, passed]);
  } finally {
    alarm?.stop();
  }
}
