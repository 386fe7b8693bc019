import { Alarm, elapsedSince, type Instant, now } from "../runtime/clock.ts";
import { believable } from "./server-ttl.ts";

/**
 * How long the server keeps a session of which it hears nothing: the smallest TTL of the locks on it, where the server
 * enforces TTLs; else for ever. Speaks often enough to keep it, and to prove the locks that refresh themselves; and says when
 * the lease may have passed.
 */
export class SessionLease {
  readonly #speak: () => Promise<unknown>;
  readonly #lapse: () => void;
  readonly #overdue: () => void;
  #provenAt: Instant = now();
  /** That the server has, in milliseconds. */
  #lease = Number.POSITIVE_INFINITY;
  /** That it may have, for its answer is not here yet, and may never be. */
  #underWay: { readonly lease: number; readonly sentAt: Instant } | undefined;
  /** The smallest TTL of the locks that are to be proved over and over, in milliseconds. */
  #proofWithin = Number.POSITIVE_INFINITY;
  /** Of either, after which a session that has been silent speaks: no more than a third, and not the same for all. */
  readonly #restShare = 0.28 + Math.random() * 0.05;
  #alarm: Alarm<undefined> | undefined;
  #speaking = false;

  /** `overdue`: nothing has been proved for the smallest TTL of those that are to be. */
  constructor(parts: { speak(): Promise<unknown>; lapse(): void; overdue(): void }) {
    this.#speak = parts.speak;
    this.#lapse = parts.lapse;
    this.#overdue = parts.overdue;
  }

  /** When the statement was sent that last showed the session to live. */
  get provenAt(): Instant {
    return this.#provenAt;
  }

  /** Milliseconds, from the last proof, or from one that may have come. */
  get left(): number {
    const proven = left(this.#lease, this.#provenAt);
    const underWay = this.#underWay;
    return underWay === undefined ? proven : Math.min(proven, left(underWay.lease, underWay.sentAt));
  }

  /** From now on it is to be proved at a third of so many milliseconds at the latest. */
  proveWithin(ttl: number): void {
    if (ttl === this.#proofWithin) return;
    this.#proofWithin = ttl;
    this.#watch();
  }

  /** A statement is about to be sent that sets the lease. */
  asked(lease: number): void {
    this.#underWay = { lease, sentAt: now() };
    if (lease < this.#lease) this.#watch();
  }

  proven(lease: number, sentAt: Instant): void {
    this.#underWay = undefined;
    this.#provenAt = sentAt;
    if (lease === this.#lease && this.#alarm !== undefined) return;
    this.#lease = lease;
    this.#watch();
  }

  /** What was asked has failed, and changed nothing. */
  failed(): void {
    this.#underWay = undefined;
  }

  /** There is nothing to keep any more, for now. The server's time goes on all the same. */
  rest(): void {
    this.#proofWithin = Number.POSITIVE_INFINITY;
    this.#alarm?.stop();
    this.#alarm = undefined;
  }

  /** Sets the alarm for the end of the lease, or for when to speak; either may have moved earlier. */
  #watch(): void {
    if (!Number.isFinite(Math.min(this.left, this.#proofWithin))) {
      this.#alarm?.stop();
      this.#alarm = undefined;
    } else if (this.#alarm !== undefined) {
      this.#alarm.reset();
    } else {
      this.#alarm = new Alarm(
        undefined,
        () => Math.min(this.left, this.#untilOverdue(), this.#untilSpeaking()),
        () => this.#ring(),
      );
    }
  }

  #ring(): void {
    if (this.left <= 0) {
      this.#lapse();
    } else if (this.#untilOverdue() > 0) {
      this.#keep();
    } else {
      this.#overdue();
      this.#watch();
    }
  }

  #untilOverdue(): number {
    return this.#proofWithin - elapsedSince(this.#provenAt);
  }

  #untilSpeaking(): number {
    if (this.#speaking) return Number.POSITIVE_INFINITY;
    return Math.min(this.#lease, this.#proofWithin) * this.#restShare - elapsedSince(this.#provenAt);
  }

  #keep(): void {
    this.#speaking = true;
    this.#watch();
    const next = (): void => {
      this.#speaking = false;
      if (this.#alarm !== undefined) this.#watch();
    };
    this.#speak().then(next, next);
  }
}

function left(lease: number, since: Instant): number {
  return Number.isFinite(lease) ? believable(lease) - elapsedSince(since) : lease;
}
