import { Alarm, elapsedSince, type Instant, now } from "../runtime/clock.ts";
import { reliableTime } from "../runtime/reliance.ts";

/** The TTLs of the locks of a client's transaction, while their functions run. */
const ttls = new WeakMap<object, number[]>();

/** The TTL to set in a client's transaction: at most those of the locks whose functions run in it. */
export function ttlWithin(client: object, ttl: number): number {
  return Math.min(ttl, ...(ttls.get(client) ?? []));
}

/** Makes {@link ttlWithin} take a TTL into account. @returns a function that ends that */
export function countTtl(client: object, ttl: number): () => void {
  const all = ttls.get(client) ?? [];
  ttls.set(client, all);
  all.push(ttl);
  return () => void all.splice(all.indexOf(ttl), 1);
}

//   resting ──a third of the TTL──▶ asking ──an answer, or a failure──▶ resting
//   stop(), the end of the TTL, from either ──▶ stopped
type State = "resting" | "asking" | "stopped";

/**
 * Keeps a transaction from being idle for longer than its TTL, as long as this process and the link live, by sending a statement after
 * each third of the TTL. If the TTL passes without an answer, it reports that before the server ends the session, because the server
 * counts from a later moment.
 *
 *     sent ──── a third: the next is sent ──── … ──── TTL less a margin: expired ── the server ends the session
 *
 * The statements queue behind the caller's own. A caller's statement that takes longer than the TTL is treated as a dead link, because
 * the two can't be told apart.
 */
export class TransactionHeartbeat {
  readonly #ttl: number;
  readonly #beat: () => Promise<unknown>;
  readonly #expired: () => void;
  readonly #alarm: Alarm<TransactionHeartbeat>;
  /** When the last answered statement was sent. */
  #provenAt: Instant;
  /** When the last statement was sent, answered or not. */
  #sentAt: Instant;
  #state: State = "resting";

  /** `provenAt`: when a statement that proved the lock was sent. `ttl`: in milliseconds. `expired` is called at most once. */
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

  /** Checks at once whether the TTL has passed, because a timer may be late. */
  look(): void {
    if (this.#state !== "stopped" && this.#remaining() <= 0) this.#ring();
  }

  /** Stops the heartbeat. A second call does nothing. */
  stop(): void {
    this.#state = "stopped";
    this.#alarm.stop();
  }

  #remaining(): number {
    return reliableTime(this.#ttl, true) - elapsedSince(this.#provenAt);
  }

  #left(): number {
    const left = this.#remaining();
    return this.#state === "asking" ? left : Math.min(left, this.#ttl / 3 - elapsedSince(this.#sentAt));
  }

  #ring(): void {
    if (this.#remaining() <= 0) {
      this.stop();
      this.#expired();
      return;
    }
    this.#state = "asking";
    const sentAt = now();
    this.#sentAt = sentAt;
    const answered = (): void => {
      if (this.#state !== "asking") return;
      this.#state = "resting";
      this.#alarm.reset();
    };
    this.#beat().then(() => {
      this.#provenAt = sentAt;
      answered();
      // A statement that fails proves nothing. The caller's own statements fail for the same reason.
    }, answered);
    this.#alarm.reset();
  }
}
