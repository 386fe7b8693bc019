import { elapsedSince, type Instant, now } from "./clock.ts";

/** The window is counted in this many buckets; samples leave it one bucket at a time. */
const bucketsOfWindow = 10;
/** Milliseconds before the first probe. Each later delay is `growth` times as long, at most `longestDelay`. */
const firstDelay = 500;
const growth = 1.5;
const longestDelay = 60_000;

export interface SamplingBreakerOptions {
  /** The share of failed samples that opens the breaker: percent. */
  readonly errorRate: number;
  readonly minimumSamples: number;
  /** The length of the window of samples, in milliseconds. */
  readonly window: number;
}

/**
 * A circuit breaker that opens on the share of failures in a window of time:
 *
 *   closed --errorRate of minimumSamples failed--> open --its delay has passed--> probing --success--> closed
 *                                                    ^                               |
 *                                                    +---failure, a longer delay-----+
 *
 * A call that began in one state and ends in another is not counted.
 */
export class SamplingBreaker {
  readonly #options: SamplingBreakerOptions;
  #state: State;

  constructor(options: SamplingBreakerOptions) {
    this.#options = options;
    this.#state = this.#closed();
  }

  /** Calls `fn` and settles as it does, or rejects without calling it if the breaker is open. */
  async execute<T>(fn: () => Promise<T>): Promise<T> {
    const state = this.#enter();
    try {
      const value = await fn();
      if (state === this.#state) this.#succeeded(state);
      return value;
    } catch (error) {
      if (state === this.#state) this.#failed(state);
      throw error;
    }
  }

  /** The state in which a call made now runs. @throws {Error} if the breaker lets no call through */
  #enter(): Closed | Probing {
    const state = this.#state;
    if (state.is === "closed") return state;
    if (state.is === "probing") throw new Error("the circuit is open, and another operation is probing it");
    if (elapsedSince(state.since) < state.delay) throw new Error("the circuit is open");
    const probing: Probing = { is: "probing", delay: state.nextDelay };
    this.#state = probing;
    return probing;
  }

  #succeeded(state: Closed | Probing): void {
    if (state.is === "probing") this.#state = this.#closed();
    else state.samples.add("succeeded");
  }

  #failed(state: Closed | Probing): void {
    if (state.is === "probing") {
      this.#state = open(state.delay);
      return;
    }
    const { samples } = state;
    samples.add("failed");
    const { failed, all } = samples.count();
    const { errorRate, minimumSamples } = this.#options;
    if (all >= minimumSamples && failed * 100 >= errorRate * all) this.#state = open(firstDelay);
  }

  #closed(): Closed {
    return { is: "closed", samples: new Samples(this.#options.window) };
  }
}

type State = Closed | Open | Probing;

interface Closed {
  readonly is: "closed";
  readonly samples: Samples;
}

interface Open {
  readonly is: "open";
  readonly since: Instant;
  /** Milliseconds until one operation may probe the database. */
  readonly delay: number;
  readonly nextDelay: number;
}

interface Probing {
  readonly is: "probing";
  /** The delay, in milliseconds, that follows if the probe fails. */
  readonly delay: number;
}

/** Opens the breaker for 0.5 to 1.5 times `delay` at random, so that the processes of a fleet don't all probe at the same moment. */
function open(delay: number): Open {
  return {
    is: "open",
    since: now(),
    delay: delay * (0.5 + Math.random()),
    nextDelay: Math.min(delay * growth, longestDelay),
  };
}

class Samples {
  readonly #start = now();
  readonly #bucket: number;
  readonly #buckets: Array<{ readonly at: number; succeeded: number; failed: number }> = [];

  constructor(window: number) {
    this.#bucket = window / bucketsOfWindow;
  }

  add(outcome: "succeeded" | "failed"): void {
    const at = Math.floor(elapsedSince(this.#start) / this.#bucket);
    const buckets = this.#buckets;
    while (buckets[0] !== undefined && buckets[0].at <= at - bucketsOfWindow) buckets.shift();
    let last = buckets.at(-1);
    if (last === undefined || last.at < at) {
      last = { at, succeeded: 0, failed: 0 };
      buckets.push(last);
    }
    last[outcome] += 1;
  }

  count(): { failed: number; all: number } {
    let failed = 0;
    let all = 0;
    for (const bucket of this.#buckets) {
      failed += bucket.failed;
      all += bucket.failed + bucket.succeeded;
    }
    return { failed, all };
  }
}
