import { nextTick } from "node:process";
import { clearImmediate, setImmediate, setInterval, setTimeout as timeout } from "node:timers";

// What a test may fake, as it was before. Which of them it fakes says what it wants: see `monotonic`.
const realTimeout = timeout;
const realDate = Date;
const realPerformance = performance;
const realNow = performance.now;
let fakedDate = realDate;
/** From a faked `Date` to the monotonic clock. */
let offset = 0;

/**
 * Milliseconds of the machine's monotonic clock. What decides something and isn't a TTL is measured by it: the bound of a wait, the least
 * time of a lock.
 *
 * In a test that fakes the timers and `Date`, but not `performance`, it moves with `Date`. Otherwise TTLs would pass when such a test
 * moves the time, and nothing else would.
 */
export function monotonic(): number {
  return setTimeout === realTimeout ? performance.now() : monotonicOfTest();
}

function monotonicOfTest(): number {
  const isFollowed = Date !== realDate && performance === realPerformance && performance.now === realNow;
  if (!isFollowed) return performance.now();
  if (fakedDate !== Date) {
    fakedDate = Date;
    offset = performance.now() - Date.now();
  }
  return Date.now() + offset;
}

/** A moment on both clocks of the machine, in milliseconds. */
export interface Instant {
  readonly monotonic: number;
  readonly wall: number;
}

// These two are called several times for each lock, so what `monotonic` says stands in them.
export function now(): Instant {
  const at = setTimeout === realTimeout ? performance.now() : monotonicOfTest();
  return { monotonic: at, wall: Date.now() };
}

/**
 * Milliseconds since `start`, on whichever clock has moved further. The monotonic clock stands still while a machine is
 * suspended, and the wall clock can be set back: a holder that uses the larger of the two never relies on its lock for too long.
 */
export function elapsedSince(start: Instant): number {
  const at = setTimeout === realTimeout ? performance.now() : monotonicOfTest();
  return Math.max(at - start.monotonic, Date.now() - start.wall);
}

// A test that fakes timers moves the time. What merely waits for its turn in the event loop must go on meanwhile, although jest, sinon
// and `node:test` fake that, too. So it is fetched once: the modules that it comes from may have the fakes later.
const realNextTick = nextTick;
const realSetImmediate = setImmediate;
const realClearImmediate = clearImmediate;
const realSetInterval = setInterval;

export {
  realClearImmediate as clearImmediate,
  realSetImmediate as setImmediate,
  realSetInterval as setInterval,
};

// Unlike `queueMicrotask`, no test replaces it.
const settled = Promise.resolve();

/** Calls back in a microtask. The function must not throw. */
export function soon(call: () => void): void {
  void settled.then(call);
}

/** Calls back after the microtasks, and those that they queue. */
export function afterMicrotasks(call: () => void): void {
  void Promise.resolve(call).then(realNextTick);
}

/** The longest timer, in milliseconds: Node.js fires a longer one at once (https://nodejs.org/api/timers.html#settimeoutcallback-delay-args). */
export const longestTimer = 2 ** 31 - 1;

/** Lets the process end before a timer fires. A timer of jsdom, which is a number, is left as it is: that process ends by itself. */
export function unrefed(timer: NodeJS.Timeout): NodeJS.Timeout {
  timer.unref?.();
  return timer;
}

/**
 * Calls back at a moment that may be moved while the alarm is set.
 *
 * Moving the moment later, as every refresh does, costs nothing: the timer fires at the old moment, checks, and sets the next timer.
 */
export class Alarm<T> {
  readonly #owner: T;
  readonly #left: (owner: T) => number;
  readonly #ring: (owner: T) => void;
  readonly #keepsAlive: boolean;
  #timer: NodeJS.Timeout | undefined;

  /**
   * Both functions get the alarm's owner as an argument, so that ten thousand alarms can share them.
   *
   * @param left returns the milliseconds to go; called each time the timer fires
   * @param options.keepsAlive whether the process lives on until it rings @default false
   */
  constructor(
    owner: T,
    left: (owner: T) => number,
    ring: (owner: T) => void,
    { keepsAlive = false }: { readonly keepsAlive?: boolean } = {},
  ) {
    this.#owner = owner;
    this.#left = left;
    this.#ring = ring;
    this.#keepsAlive = keepsAlive;
    this.#set();
  }

  /** Sets the timer anew. To be called if the moment may have moved earlier. */
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
    this.#timer = setTimeout(fire, wait, this);
    if (!this.#keepsAlive) unrefed(this.#timer);
  }

  /** Called when the timer fires: rings if the moment is reached, otherwise sets the next timer. */
  look(): void {
    if (this.#left(this.#owner) > 0) this.#set();
    else this.#ring(this.#owner);
  }
}

function fire(alarm: { look(): void }): void {
  alarm.look();
}

/** A deadline is counted in steps of at most this many milliseconds: a process that stands still loses one step, however long it stands. */
const longestStep = 500;

/**
 * Calls `owner.late()` after the given number of milliseconds, unless it is cleared before. Time during which the process stood still (a
 * blocked event loop, SIGSTOP) hardly counts: opening a connection takes several messages, which can't be answered during that time.
 *
 * A process that stood still finds its timers due before it has read its sockets. So when the time is up, one poll phase of the event
 * loop passes first: an answer that has arrived by then is read, and clears the deadline
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
    if (this.#lastLook !== undefined) realClearImmediate(this.#lastLook);
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
    // The first immediate runs after the poll phase that was already due; the second, after one that began after the timer.
    deadline.#lastLook = realSetImmediate(() => {
      deadline.#lastLook = realSetImmediate(() => deadline.#owner.late());
    });
  }
}

/** The error of an answer that hasn't come within so many milliseconds, of which the rest of a TTL may have left none. */
export function noAnswerWithin(milliseconds: number): Error {
  if (milliseconds <= 0) return new Error("no answer before the TTL had passed");
  const rounded = milliseconds < 10 ? Number(milliseconds.toPrecision(2)) : Math.round(milliseconds);
  return new Error(`no answer within ${rounded} ms`);
}

/** Waits for `work` for at most the given number of milliseconds. @throws {Error} at the deadline @throws what `work` throws */
export function within<T>(milliseconds: number, work: Promise<T>): Promise<T> {
  return answeredInTime(work, milliseconds, (late) => {
    const deadline = new Deadline(milliseconds, { late });
    return () => deadline.clear();
  });
}

/**
 * Waits for an answer that is worth nothing once a TTL has passed. Unlike {@link within}, it counts the time in which the process stood
 * still, because the TTL runs meanwhile.
 *
 * @param left milliseconds to go, as of now
 * @throws {Error} when the TTL has passed, or what `work` throws
 */
export function withinTtl<T>(left: () => number, work: Promise<T>): Promise<T> {
  return answeredInTime(work, left(), (late) => {
    const alarm = new Alarm(undefined, left, late);
    return () => alarm.stop();
  });
}

/** @param watch calls `late` when the `milliseconds` have passed; returns a function that ends the watch */
async function answeredInTime<T>(
  work: Promise<T>,
  milliseconds: number,
  watch: (late: () => void) => () => void,
): Promise<T> {
  let stop: () => void = () => {};
  const late = new Promise<never>((_, reject) => {
    stop = watch(() => reject(noAnswerWithin(milliseconds)));
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    stop();
  }
}
