import { type Instant, longestTimer } from "./clock.ts";

/** What ends when its time has passed. */
export interface Expiring {
  /** Milliseconds; two with the same term expire in the order of {@link since}. */
  readonly term: number;
  /** Since when the term counts. */
  readonly since: Instant;
  /** Milliseconds to go, as of now. */
  readonly left: number;
  expire(): void;
}

/**
 * Ends what expires, with one timer for all that have the same TTL: a timer for each lock costs more than all else that is kept of it.
 * Does not keep the process alive.
 */
export class Expiries {
  readonly #lines = new Map<number, Line>();

  /** @returns what is to be given to {@link stop} and {@link moved} */
  watch(expiring: Expiring): Expiry {
    const expiry = new Expiry(expiring);
    this.#insert(expiry);
    return expiry;
  }

  /** Does nothing the second time. */
  stop(expiry: Expiry): void {
    expiry.remove();
  }

  /** Its term has changed, or counts from another moment. */
  moved(expiry: Expiry): void {
    expiry.remove();
    this.#insert(expiry);
  }

  #insert(expiry: Expiry): void {
    const { term } = expiry.expiring;
    let line = this.#lines.get(term);
    if (line === undefined) {
      line = new Line(term, this);
      this.#lines.set(term, line);
    }
    line.insert(expiry);
  }

  /** Only a {@link Line} calls it, when nothing is in it any more. */
  forget(term: number): void {
    this.#lines.delete(term);
  }
}

/** A place in a line. */
export class Expiry {
  readonly expiring: Expiring;
  since: number;
  previous: Expiry | undefined;
  next: Expiry | undefined;
  line: Line | undefined;

  constructor(expiring: Expiring) {
    this.expiring = expiring;
    this.since = 0;
    this.previous = undefined;
    this.next = undefined;
    this.line = undefined;
  }

  remove(): void {
    const { line, previous, next } = this;
    if (line === undefined) return;
    if (previous === undefined) line.first = next;
    else previous.next = next;
    if (next === undefined) line.last = previous;
    else next.previous = previous;
    this.line = undefined;
    this.previous = undefined;
    this.next = undefined;
  }
}

/** All that have one term; the first to expire is the first in it. */
class Line {
  readonly #term: number;
  readonly #expiries: Expiries;
  first: Expiry | undefined;
  last: Expiry | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(term: number, expiries: Expiries) {
    this.#term = term;
    this.#expiries = expiries;
    this.first = undefined;
    this.last = undefined;
  }

  /** Most come in order. An answer that was long in coming belongs before those that were asked for later. */
  insert(expiry: Expiry): void {
    expiry.since = expiry.expiring.since.monotonic;
    let before = this.last;
    while (before !== undefined && before.since > expiry.since) before = before.previous;
    const next = before === undefined ? this.first : before.next;
    expiry.line = this;
    expiry.previous = before;
    expiry.next = next;
    if (before === undefined) this.first = expiry;
    else before.next = expiry;
    if (next === undefined) this.last = expiry;
    else next.previous = expiry;
    if (this.#timer === undefined || before === undefined) this.#look();
  }

  /** Sets the timer anew, for the first. */
  #look(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.first === undefined) {
      this.#expiries.forget(this.#term);
      return;
    }
    // A timer may fire up to a millisecond early; rounding up keeps it from firing twice for one moment.
    const wait = Math.min(Math.max(Math.ceil(this.first.expiring.left), 1), longestTimer);
    this.#timer = setTimeout(Line.#ring, wait, this).unref();
  }

  static #ring(this: void, line: Line): void {
    for (let expiry = line.first; expiry !== undefined; expiry = line.first) {
      if (expiry.expiring.left > 0) {
        if (expiry.since === expiry.expiring.since.monotonic && expiry.expiring.term === line.#term) break;
        // It has been proved since.
        line.#expiries.moved(expiry);
        continue;
      }
      expiry.remove();
      expiry.expiring.expire();
    }
    line.#look();
  }
}
