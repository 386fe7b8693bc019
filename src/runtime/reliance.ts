import { elapsedSince, type Instant, now } from "./clock.ts";

/** A TTL that a statement in flight sets, and that may or may not be in force already. */
export interface AskedTtl {
  readonly ttl: number;
  readonly sentAt: Instant;
  /** The number of the statement, counted in the order of sending. */
  readonly turn: number;
}

/** Who enforces a TTL: the server or the holder. */
export interface RelianceRule {
  /** The TTL minus the margin: milliseconds for which the holder may rely on it. */
  reliableTime(ttl: number): number;
  /** Whether the server enforces the TTL. */
  readonly enforced: boolean;
}

/**
 * How long a holder may rely on its lock or session:
 *
 *     until = sent + TTL − margin
 *
 * `sent` is when the last statement that proved the lock was sent. The server's TTL begins later, so the server ends the lock later. If
 * the server enforces the TTL, a statement that sets one may take effect as soon as it is sent: `until` is then the smallest value of
 * the last answered statement and of all statements sent after it. Answers count in the order in which their statements were sent, in
 * whatever order they are processed.
 *
 * All times are in milliseconds; a TTL may be infinite.
 */
export class Reliance {
  readonly #rule: RelianceRule;
  #ttl: number;
  #provenAt: Instant;
  #turn: number;
  #answered: number;
  /** The TTLs of statements in flight; usually there are none. */
  #asked: AskedTtl[] | undefined;

  constructor(ttl: number, provenAt: Instant, rule: RelianceRule) {
    this.#ttl = ttl;
    this.#provenAt = provenAt;
    this.#rule = rule;
    this.#turn = 0;
    this.#answered = 0;
    this.#asked = undefined;
  }

  /** The TTL that was last proved, in milliseconds. */
  get ttl(): number {
    return this.#ttl;
  }

  /** When the last statement that proved the lock was sent. */
  get provenAt(): Instant {
    return this.#provenAt;
  }

  /** The same as {@link provenAt}, under the name that an {@link AskedTtl} uses. */
  get sentAt(): Instant {
    return this.#provenAt;
  }

  /** Milliseconds for which the holder may still rely on the lock. */
  get left(): number {
    let left = this.#leftOf(this.#ttl, this.#provenAt);
    if (this.#asked !== undefined && this.#rule.enforced) {
      for (const { ttl, sentAt } of this.#asked) left = Math.min(left, this.#leftOf(ttl, sentAt));
    }
    return left;
  }

  /** The statement whose TTL ends first: the last one that proved the lock, or one that is still unanswered. */
  get soonest(): { readonly ttl: number; readonly sentAt: Instant } {
    let soonest: { readonly ttl: number; readonly sentAt: Instant } = this;
    if (this.#asked === undefined || !this.#rule.enforced) return soonest;
    let least = this.#leftOf(this.#ttl, this.#provenAt);
    for (const asked of this.#asked) {
      const left = this.#leftOf(asked.ttl, asked.sentAt);
      if (left >= least) continue;
      soonest = asked;
      least = left;
    }
    return soonest;
  }

  /** When {@link left} reaches 0, by the wall clock: milliseconds since 1970. */
  get until(): number {
    const { ttl, sentAt } = this.soonest;
    return sentAt.wall + this.#rule.reliableTime(ttl);
  }

  /** Records that a statement that sets a TTL is about to be sent. */
  ask(ttl: number): AskedTtl {
    this.#turn += 1;
    const asked = { ttl, sentAt: now(), turn: this.#turn };
    if (this.#asked === undefined) this.#asked = [asked];
    else this.#asked.push(asked);
    return asked;
  }

  /**
   * Records the answer of a statement: its TTL is in force, unless that of a later statement already is.
   *
   * @param sentAt when the statement was really sent, if it had to queue first
   */
  answered(asked: AskedTtl, sentAt = asked.sentAt): void {
    this.forget(asked);
    if (asked.turn < this.#answered) return;
    this.#answered = asked.turn;
    this.#ttl = asked.ttl;
    this.#provenAt = sentAt;
  }

  /** Drops a TTL whose statement is known to have changed nothing. */
  forget(asked: AskedTtl): void {
    const others = this.#asked?.filter((each) => each !== asked);
    this.#asked = others?.length === 0 ? undefined : others;
  }

  /** Records that another statement has proved the lock, without changing the TTL. */
  extend(provenAt: Instant): void {
    const before = this.#provenAt;
    const isLater = provenAt.monotonic >= before.monotonic && provenAt.wall >= before.wall;
    // If one clock was set, the clock that has moved further decides.
    if (isLater || elapsedSince(provenAt) < elapsedSince(before)) this.#provenAt = provenAt;
  }

  #leftOf(ttl: number, since: Instant): number {
    return ttl === Number.POSITIVE_INFINITY ? ttl : this.#rule.reliableTime(ttl) - elapsedSince(since);
  }
}
