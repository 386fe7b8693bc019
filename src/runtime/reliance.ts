import { DatabaseError } from "../contract/errors.ts";
import { elapsedSince, type Instant, noAnswerWithin, now } from "./clock.ts";

/** A TTL that a statement in flight sets, and that may or may not be in force already. */
export interface AskedTtl {
  readonly ttl: number;
  readonly sentAt: Instant;
  /** The number of the statement, counted in the order of sending. */
  readonly turn: number;
}

/**
 * How many milliseconds after the last proof was sent a holder may rely on its lock. If the server enforces the TTL, it is the TTL minus
 * a margin; otherwise the TTL.
 *
 * The server's timer begins only when the server has answered, so even without a margin the holder would stop first, unless the two clocks
 * differ in rate. 0.1 % is twice the largest difference of a clock that NTP is slewing, and both clocks round to a millisecond.
 */
export function reliableTime(ttl: number, isEnforced: boolean): number {
  return isEnforced ? ttl - Math.min(1 + ttl / 1_000, ttl / 10) : ttl;
}

/**
 * A lock whose TTL has passed before its caller could know of it was never held. It is to be given back, as if there had been no answer.
 *
 * @param askedAt when it was asked for @throws {DatabaseError} its TTL has passed
 */
export function assertInTime(
  askedAt: Instant,
  isEnforced: boolean,
  { key, ttl }: { readonly key: string; readonly ttl: number },
): void {
  if (elapsedSince(askedAt) < reliableTime(ttl, isEnforced)) return;
  throw new DatabaseError({ doing: "Taking the lock", key, cause: noAnswerWithin(ttl) });
}

/** The statements that set another TTL. */
interface Refreshes {
  /** How many were sent. */
  turn: number;
  /** The last of them, in the order of sending, that was answered. */
  answered: number;
  /** Those without an answer. */
  asked: readonly AskedTtl[];
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
  /** Whether the server enforces the TTL. */
  readonly #isEnforced: boolean;
  #ttl: number;
  #provenAt: Instant;
  /** Absent as long as no statement has set another TTL, as for most locks. */
  #refreshes: Refreshes | undefined;

  constructor(ttl: number, provenAt: Instant, isEnforced: boolean) {
    this.#ttl = ttl;
    this.#provenAt = provenAt;
    this.#isEnforced = isEnforced;
    this.#refreshes = undefined;
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
    if (this.#refreshes !== undefined && this.#isEnforced) {
      for (const { ttl, sentAt } of this.#refreshes.asked) left = Math.min(left, this.#leftOf(ttl, sentAt));
    }
    return left;
  }

  /** The statement whose TTL ends first: the last one that proved the lock, or one that is still unanswered. */
  get soonest(): { readonly ttl: number; readonly sentAt: Instant } {
    let soonest: { readonly ttl: number; readonly sentAt: Instant } = this;
    if (this.#refreshes === undefined || !this.#isEnforced) return soonest;
    let least = this.#leftOf(this.#ttl, this.#provenAt);
    for (const asked of this.#refreshes.asked) {
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
    return sentAt.wall + reliableTime(ttl, this.#isEnforced);
  }

  /** Records that a statement that sets a TTL is about to be sent. */
  askFor(ttl: number): AskedTtl {
    this.#refreshes ??= { turn: 0, answered: 0, asked: [] };
    this.#refreshes.turn += 1;
    const asked = { ttl, sentAt: now(), turn: this.#refreshes.turn };
    this.#refreshes.asked = [...this.#refreshes.asked, asked];
    return asked;
  }

  /**
   * Records the answer of a statement: its TTL is in force, unless that of a later statement already is.
   *
   * @param sentAt when the statement was really sent, if it had to queue first
   */
  answered(asked: AskedTtl, sentAt = asked.sentAt): void {
    this.notInForce(asked);
    const refreshes = this.#refreshes;
    if (refreshes === undefined || asked.turn < refreshes.answered) return;
    refreshes.answered = asked.turn;
    this.#ttl = asked.ttl;
    this.#provenAt = sentAt;
  }

  /** Drops a TTL whose statement is known to have changed nothing. */
  notInForce(asked: AskedTtl): void {
    const refreshes = this.#refreshes;
    if (refreshes !== undefined) refreshes.asked = refreshes.asked.filter((each) => each !== asked);
  }

  /** Records that another statement has proved the lock, without changing the TTL. */
  provedAgain(provenAt: Instant): void {
    const before = this.#provenAt;
    const isLater = provenAt.monotonic >= before.monotonic && provenAt.wall >= before.wall;
    // If one clock was set, the clock that has moved further decides.
    if (isLater || elapsedSince(provenAt) < elapsedSince(before)) this.#provenAt = provenAt;
  }

  #leftOf(ttl: number, since: Instant): number {
    return ttl === Number.POSITIVE_INFINITY ? ttl : reliableTime(ttl, this.#isEnforced) - elapsedSince(since);
  }
}
