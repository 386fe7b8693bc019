import { Alarm, elapsedSince, type Instant, now } from "../runtime/clock.ts";
import { debug } from "../runtime/debug-log.ts";
import { type AskedTtl, TrustWindow } from "../runtime/trust-window.ts";
import { enforcedRule } from "./server-ttl.ts";

//   resting ──there is something to keep──▶ watching ──a third of that has passed──▶ speaking ──an answer, or none──▶ watching
//      ▲                                       └── it has passed ──▶ the session ends        │
//      └───────── nothing to keep any more ────┴──────────────────────────────────────────────┘
type State =
  | { readonly is: "resting" }
  | { readonly is: "watching" | "speaking"; readonly alarm: Alarm<SessionKeepalive> };

const resting: State = { is: "resting" };

/**
 * How long the server keeps a session of which it hears nothing: the smallest TTL of the locks on it, where the server
 * enforces TTLs; else for ever. Speaks often enough to keep it, and to prove the locks that refresh themselves; and says when
 * the lease may have passed.
 */
export class SessionKeepalive {
  readonly #speak: () => Promise<unknown>;
  readonly #lapse: () => void;
  readonly #overdue: () => void;
  /** What the server has, or may have: its TTL is infinite if the server enforces none. */
  readonly #window = new TrustWindow(Number.POSITIVE_INFINITY, now(), enforcedRule);
  /** What the statement under way asks for. */
  #asked: AskedTtl | undefined;
  /** The smallest TTL of the locks that are to be proved over and over, in milliseconds. */
  #proofWithin = Number.POSITIVE_INFINITY;
  /** Of either, after which a session that has been silent speaks: no more than a third, and not the same for all. */
  readonly #restShare = 0.28 + Math.random() * 0.05;
  #state: State = resting;

  /** `overdue`: nothing has been proved for the smallest TTL of those that are to be. */
  constructor(parts: { speak(): Promise<unknown>; lapse(): void; overdue(): void }) {
    this.#speak = parts.speak;
    this.#lapse = parts.lapse;
    this.#overdue = parts.overdue;
  }

  /** When the statement was sent that last showed the session to live. */
  get provenAt(): Instant {
    return this.#window.provenAt;
  }

  /** Milliseconds, from the last proof, or from one that may have come. */
  get left(): number {
    return this.#window.left;
  }

  /** From now on it is to be proved at a third of so many milliseconds at the latest. */
  proveWithin(ttl: number): void {
    if (ttl === this.#proofWithin) return;
    this.#proofWithin = ttl;
    this.#watch();
  }

  /** A statement is about to be sent that sets the lease. */
  asked(lease: number): void {
    this.#asked = this.#window.ask(lease);
    if (lease < this.#window.ttl) this.#watch();
  }

  /** The statement was answered, and the session is what it was. `lease`: the one that it set, if it set one. */
  proven(lease: number | undefined, sentAt: Instant): void {
    if (lease === undefined) {
      this.#window.extend(sentAt);
      return;
    }
    const before = this.#window.ttl;
    this.#window.answered(this.#asked ?? this.#window.ask(lease), sentAt);
    this.#asked = undefined;
    if (lease === before && this.#state.is !== "resting") return;
    this.#watch();
  }

  /** What was asked has failed, and changed nothing. */
  failed(): void {
    if (this.#asked !== undefined) this.#window.forget(this.#asked);
    this.#asked = undefined;
  }

  /** There is nothing to keep any more, for now. The server's time goes on all the same. */
  rest(): void {
    this.#proofWithin = Number.POSITIVE_INFINITY;
    this.#rest();
  }

  #rest(): void {
    if (this.#state.is !== "resting") this.#state.alarm.stop();
    this.#state = resting;
  }

  /** Sets the alarm for the end of the lease, or for when to speak; either may have moved earlier. */
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
    return Math.min(this.#window.ttl, this.#proofWithin) * this.#restShare - elapsedSince(this.provenAt);
  }

  #keep(): void {
    const state = this.#state;
    if (state.is === "resting") return;
    debug("keepalive", () => ({ lease: this.#window.ttl, proofWithin: this.#proofWithin }));
    this.#state = { is: "speaking", alarm: state.alarm };
    this.#watch();
    const next = (): void => {
      // It may rest by now, or rest and watch again.
      if (this.#state.is === "resting") return;
      this.#state = { is: "watching", alarm: this.#state.alarm };
      this.#watch();
    };
    this.#speak().then(next, next);
  }
}
