import { Alarm, elapsedSince, type Instant, now } from "../runtime/clock.ts";
import { debug, isDebugged } from "../runtime/debug-log.ts";
import { type AskedTtl, Reliance } from "../runtime/reliance.ts";

//   resting ──there is something to keep──▶ watching ──a third of that has passed──▶ speaking ──an answer, or none──▶ watching
//      ▲                                       └── it has passed ──▶ the session ends        │
//      └───────── nothing to keep any more ────┴──────────────────────────────────────────────┘
type State =
  | { readonly is: "resting" }
  | { readonly is: "watching" | "speaking"; readonly alarm: Alarm<SessionKeepalive> };

const resting: State = { is: "resting" };

/**
 * Keeps a shared session alive. If the server enforces TTLs, it ends a session that has been silent for the smallest TTL of its locks (the
 * session's TTL). The keepalive sends a statement often enough to prevent that, and to prove the locks that refresh themselves. It
 * also reports when that TTL may have passed.
 */
export class SessionKeepalive {
  readonly #speak: () => Promise<unknown>;
  readonly #lapse: () => void;
  readonly #overdue: () => void;
  /** The session's TTL, which the server applies or may apply: infinite if the server enforces no TTL. */
  readonly #reliance = new Reliance(Number.POSITIVE_INFINITY, now(), true);
  /** The session's TTL that the statement in flight sets. */
  #asked: AskedTtl | undefined;
  /** The smallest TTL of the locks that refresh themselves, in milliseconds. */
  #proofWithin = Number.POSITIVE_INFINITY;
  /** The share of a TTL after which a silent session sends a statement: at most a third, jittered so that sessions differ. */
  readonly #restShare = 0.28 + Math.random() * 0.05;
  #state: State = resting;

  /**
   * `speak` sends a statement. `lapse`: the session's TTL may have passed. `overdue`: locks that refresh themselves were not proved in
   * time.
   */
  constructor(parts: { speak(): Promise<unknown>; lapse(): void; overdue(): void }) {
    this.#speak = parts.speak;
    this.#lapse = parts.lapse;
    this.#overdue = parts.overdue;
  }

  /** When the last statement that proved the session was sent. */
  get provenAt(): Instant {
    return this.#reliance.provenAt;
  }

  /** Milliseconds until the session's TTL may have passed. */
  get left(): number {
    return this.#reliance.left;
  }

  /** From now on, the session is proved after at most a third of `ttl` milliseconds. */
  proveWithin(ttl: number): void {
    if (ttl === this.#proofWithin) return;
    this.#proofWithin = ttl;
    this.#watch();
  }

  /** Records that a statement that sets the session's TTL is about to be sent. */
  asked(ttl: number): void {
    this.#asked = this.#reliance.askFor(ttl);
    if (ttl < this.#reliance.ttl) this.#watch();
  }

  /** Records that a statement was answered by the same session. `ttl`: the session's TTL that the statement set, if it set one. */
  proven(ttl: number | undefined, sentAt: Instant): void {
    if (ttl === undefined) {
      this.#reliance.provedAgain(sentAt);
      return;
    }
    const before = this.#reliance.ttl;
    this.#reliance.answered(this.#asked ?? this.#reliance.askFor(ttl), sentAt);
    this.#asked = undefined;
    if (ttl === before && this.#state.is !== "resting") return;
    this.#watch();
  }

  /** Records that the statement has failed and changed nothing. */
  failed(): void {
    if (this.#asked !== undefined) this.#reliance.notInForce(this.#asked);
    this.#asked = undefined;
  }

  /** Stops for now, because there is nothing to keep alive. The server's timer goes on. */
  rest(): void {
    this.#proofWithin = Number.POSITIVE_INFINITY;
    this.#rest();
  }

  #rest(): void {
    if (this.#state.is !== "resting") this.#state.alarm.stop();
    this.#state = resting;
  }

  /** Sets the alarm for the end of the session's TTL or for the next statement. Both may have moved earlier. */
  #watch(): void {
    if (!Number.isFinite(Math.min(this.left, this.#proofWithin))) {
      this.#rest();
    } else if (this.#state.is !== "resting") {
      this.#state.alarm.reset();
    } else {
      const alarm = new Alarm<SessionKeepalive>(
        this,
        (keepalive) => Math.min(keepalive.left, keepalive.#untilOverdue(), keepalive.#untilSpeaking()),
        (keepalive) => keepalive.#ring(),
      );
      this.#state = { is: "watching", alarm };
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
    return this.#proofWithin - elapsedSince(this.provenAt);
  }

  #untilSpeaking(): number {
    if (this.#state.is === "speaking") return Number.POSITIVE_INFINITY;
    return Math.min(this.#reliance.ttl, this.#proofWithin) * this.#restShare - elapsedSince(this.provenAt);
  }

  #keep(): void {
    const state = this.#state;
    if (state.is === "resting") return;
    if (isDebugged) debug("keepalive", { ttl: this.#reliance.ttl, proofWithin: this.#proofWithin });
    this.#state = { is: "speaking", alarm: state.alarm };
    this.#watch();
    const next = (): void => {
      // By now the keepalive may be resting, or watching again.
      if (this.#state.is === "resting") return;
      this.#state = { is: "watching", alarm: this.#state.alarm };
      this.#watch();
    };
    this.#speak().then(next, next);
  }
}
