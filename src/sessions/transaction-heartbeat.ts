import { Alarm, elapsedSince, type Instant, now } from "../runtime/clock.ts";
import { believable } from "./server-ttl.ts";

/** The TTLs of the locks of a client's transaction, while their functions run. */
const ttls = new WeakMap<object, number[]>();

/** The TTL to set: one within another doesn't outlive it. */
export function ttlWithin(client: object, ttl: number): number {
  return Math.min(ttl, ...(ttls.get(client) ?? []));
}

/** Has a TTL be counted by {@link ttlWithin}. @returns what ends that */
export function countTtl(client: object, ttl: number): () => void {
  const all = ttls.get(client) ?? [];
  ttls.set(client, all);
  all.push(ttl);
  return () => void all.splice(all.indexOf(ttl), 1);
}

/**
 * Keeps a transaction from being idle for longer than its TTL, as long as this process lives and the link does: has something
 * sent at a third of it. And says when the TTL has passed without an answer, before the server, which counts from a later
 * moment, ends the session.
 *
 *     sent ──── a third: the next is sent ──── … ──── TTL less a margin: expired ── the server ends the session
 *
 * A statement of the caller's own that is under way keeps what is sent here waiting. One that takes longer than the TTL is
 * taken for a dead link: there is no telling them apart from here.
 */
export class TransactionHeartbeat {
  readonly #ttl: number;
  readonly #beat: () => Promise<unknown>;
  readonly #expired: () => void;
  readonly #alarm: Alarm<TransactionHeartbeat>;
  /** When a statement was sent that has its answer. */
  #provenAt: Instant;
  /** When the last one was sent, whether or not it has an answer. */
  #sentAt: Instant;
  #isSent = false;
  #isStopped = false;

  /** `provenAt`: when a statement was sent that showed the lock to be held; `ttl`: milliseconds. `expired` is called once. */
  constructor(parts: { ttl: number; provenAt: Instant; beat: () => Promise<unknown>; expired: () => void }) {
    this.#ttl = parts.ttl;
    this.#beat = parts.beat;
    this.#expired = parts.expired;
    this.#provenAt = parts.provenAt;
    this.#sentAt = parts.provenAt;
    this.#alarm = new Alarm<TransactionHeartbeat>(
      this,
      (heartbeat) => heartbeat.#left(),
      (heartbeat) => heartbeat.#ring(),
    );
  }

  /** Says at once if the TTL has passed: a timer may be late. */
  look(): void {
    if (!this.#isStopped && this.#believes() <= 0) this.#ring();
  }

  /** A second call changes nothing. */
  stop(): void {
    this.#isStopped = true;
    this.#alarm.stop();
  }

  #believes(): number {
    return believable(this.#ttl) - elapsedSince(this.#provenAt);
  }

  #left(): number {
    const left = this.#believes();
    return this.#isSent ? left : Math.min(left, this.#ttl / 3 - elapsedSince(this.#sentAt));
  }

  #ring(): void {
    if (this.#believes() <= 0) {
      this.stop();
      this.#expired();
      return;
    }
    this.#isSent = true;
    const sentAt = now();
    this.#sentAt = sentAt;
    const answered = (): void => {
      this.#isSent = false;
      if (!this.#isStopped) this.#alarm.reset();
    };
    this.#beat().then(() => {
      this.#provenAt = sentAt;
      answered();
      // One that fails proves nothing. Whatever made it fail is told to the caller's own statements as well.
    }, answered);
    this.#alarm.reset();
  }
}
