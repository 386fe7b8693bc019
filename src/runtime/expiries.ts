import { type Instant, longestTimer, unrefed } from "./clock.ts";
import { Reliance } from "./reliance.ts";

/** The moment that something counts from as long as it is in no line. */
const nowhere: Instant = { monotonic: 0, wall: 0 };

/** What somebody relies on, and what ends when its time has passed. It is itself the place in the line of those that have the same TTL. */
export abstract class Expiring extends Reliance {
  #line: Line | undefined;
  /** What its place in the line is by. */
  #since = nowhere;
  #previous: Expiring | undefined;
  #next: Expiring | undefined;

  /** Called when nothing is left of its time. */
  abstract expire(): void;

  /** Only {@link Expiries} calls it. Most come in order; one whose answer was long in coming belongs before those sent later. */
  enter(line: Line, since: Instant): void {
    let before = line.last;
    while (before !== undefined && before.#since.monotonic > since.monotonic) before = before.#previous;
    const next = before === undefined ? line.first : before.#next;
    this.#line = line;
    this.#since = since;
    this.#previous = before;
    this.#next = next;
    if (before === undefined) line.first = this;
    else before.#next = this;
    if (next === undefined) line.last = this;
    else next.#previous = this;
    if (before === undefined) line.look();
  }

  /** Is watched no more. A second call does nothing. */
  leave(): void {
    const line = this.#line;
    if (line === undefined) return;
    const previous = this.#previous;
    const next = this.#next;
    if (previous === undefined) line.first = next;
    else previous.#next = next;
    if (next === undefined) line.last = previous;
    else next.#previous = previous;
    this.#line = undefined;
    this.#previous = undefined;
    this.#next = undefined;
  }

  /** Whether it stands where it belongs: it has not been proved since. */
  isInPlace(): boolean {
    const { ttl, sentAt } = this.soonest;
    return this.#since.monotonic === sentAt.monotonic && this.#line?.ttl === ttl;
  }
}

/**
 * Ends what expires, with one timer for all that have the same TTL: a timer for each lock costs more than all else that is kept of it.
 * Does not keep the process alive.
 */
export class Expiries {
  readonly #lines = new Map<number, Line>();

  /** Watches what is watched already anew, because its TTL has changed, or counts from another moment. */
  watchAgain(expiring: Expiring): void {
    expiring.leave();
    const { ttl, sentAt } = expiring.soonest;
    this.watch(expiring, ttl, sentAt);
  }

  /** Watches what is not watched yet. The TTL and its beginning are those of {@link Expiring.soonest}. {@link Expiring.leave} ends it. */
  watch(expiring: Expiring, ttl: number, sentAt: Instant): void {
    let line = this.#lines.get(ttl);
    if (line === undefined) {
      line = new Line(ttl, this);
      this.#lines.set(ttl, line);
    }
    expiring.enter(line, sentAt);
  }

  /** Only a {@link Line} calls it, when nothing is in it any more. */
  forget(ttl: number): void {
    this.#lines.delete(ttl);
  }
}

/** All that have one TTL; the first to expire is the first in it. */
class Line {
  readonly ttl: number;
  readonly #expiries: Expiries;
  first: Expiring | undefined;
  last: Expiring | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(ttl: number, expiries: Expiries) {
    this.ttl = ttl;
    this.#expiries = expiries;
  }

  /** Sets the timer anew, for the first. */
  look(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.first === undefined) {
      this.#expiries.forget(this.ttl);
      return;
    }
    // A timer may fire up to a millisecond early; rounding up keeps it from firing twice for one moment.
    const wait = Math.min(Math.max(Math.ceil(this.first.left), 1), longestTimer);
    this.#timer = unrefed(setTimeout(Line.#ring, wait, this));
  }

  static #ring(this: void, line: Line): void {
    for (let { first } = line; first !== undefined; first = line.first) {
      if (first.left > 0) {
        if (first.isInPlace()) break;
        line.#expiries.watchAgain(first);
        continue;
      }
      first.leave();
      first.expire();
    }
    line.look();
  }
}
