import { elapsedSince, type Instant, now } from "./clock.ts";

/** A TTL that was asked for, of which it isn't known yet whether it is in force. */
export interface AskedTtl {
  readonly ttl: number;
  readonly sentAt: Instant;
  /** Counts what was asked, in the order of sending. */
  readonly turn: number;
}

/** Who ends what a TTL is of. */
export interface TrustRule {
  /** What is left of a TTL without the margin. */
  trusted(ttl: number): number;
  /** The server does. */
  readonly enforced: boolean;
}

/**
 * How long a holder may rely on what it has:
 *
 *     until = sent + TTL − margin
 *
 * `sent` is when the statement was sent that last proved it, so that the server, whose TTL begins later, ends it later. If the server
 * enforces the TTL, each statement that sets one may have been carried out as soon as it was sent: then it is the smallest `until` of
 * the last one that was answered and of all that were sent after it. Answers count in the order of sending, whichever is looked at
 * first.
 *
 * All times are in milliseconds; a TTL may be infinite.
 */
export class TrustWindow {
  readonly #rule: TrustRule;
  #ttl: number;
  #provenAt: Instant;
  #turn: number;
  #answered: number;
  /** The TTLs that statements under way ask for; mostly there is none. */
  #asked: AskedTtl[] | undefined;

  constructor(ttl: number, provenAt: Instant, rule: TrustRule) {
    this.#ttl = ttl;
    this.#provenAt = provenAt;
    this.#rule = rule;
    this.#turn = 0;
    this.#answered = 0;
    this.#asked = undefined;
  }

  /** The TTL that was last proved. */
  get ttl(): number {
    return this.#ttl;
  }

  /** When the statement was sent that last proved the lock. */
  get provenAt(): Instant {
    return this.#provenAt;
  }

  /** {@link provenAt}, under the name that an asked TTL has for it. */
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

  /** The statement whose TTL ends first: the one that last proved it, or one without an answer. */
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

  /** The moment at which {@link left} is 0, by the wall clock: milliseconds since 1970. */
  get until(): number {
    const { ttl, sentAt } = this.soonest;
    return sentAt.wall + this.#rule.trusted(ttl);
  }

  /** A statement is about to be sent that sets a TTL. */
  ask(ttl: number): AskedTtl {
    this.#turn += 1;
    const asked = { ttl, sentAt: now(), turn: this.#turn };
    if (this.#asked === undefined) this.#asked = [asked];
    else this.#asked.push(asked);
    return asked;
  }

  /**
   * The answer came: the TTL is in force, unless one that was sent later is already.
   *
   * @param sentAt when it was really sent, if it had to queue
   */
  answered(asked: AskedTtl, sentAt = asked.sentAt): void {
    this.forget(asked);
    if (asked.turn < this.#answered) return;
    this.#answered = asked.turn;
    this.#ttl = asked.ttl;
    this.#provenAt = sentAt;
  }

  /** The statement that asked for it is sure to have changed nothing. */
  forget(asked: AskedTtl): void {
    const others = this.#asked?.filter((each) => each !== asked);
    this.#asked = others?.length === 0 ? undefined : others;
  }

  /** Another statement has proved the lock, with the same TTL. */
  extend(provenAt: Instant): void {
    if (provenAt === this.#provenAt) return;
    if (elapsedSince(provenAt) < elapsedSince(this.#provenAt)) this.#provenAt = provenAt;
  }

  #leftOf(ttl: number, since: Instant): number {
    return ttl === Number.POSITIVE_INFINITY ? ttl : this.#rule.trusted(ttl) - elapsedSince(since);
  }
}
