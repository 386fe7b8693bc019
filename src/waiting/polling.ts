import { setImmediate } from "../runtime/clock.ts";
import { Queue, type Queued } from "../runtime/queue.ts";

/** Milliseconds between two tries for a lock. */
const interval = 500;
/** How many callers are woken in one step, so that their tries go out together, in one statement for each session. */
const together = 1_000;
/** The largest share of its time for which the tries may keep the process busy. */
const busyShare = 0.25;
/** The least milliseconds between two steps. */
const shortest = 20;

/** A caller that has no place to wait in the server. Only {@link Polling} changes it. */
export class Poller {
  readonly id: bigint;
  aged: Queued<Poller> | undefined;
  asleep: Queued<Poller> | undefined;
  /** Whether it was woken while it didn't sleep; it then tries once more before it sleeps. */
  wasWoken = false;
  wakeUp: () => void = () => {};

  constructor(id: bigint) {
    this.id = id;
  }
}

/**
 * The callers of a locker that wait without a place in the server. About twice a second they all try for their locks together; less often
 * if there are so many that this would keep the process busy. A place that becomes free is offered to the oldest.
 */
export class Polling {
  /** All callers, in the order in which they came. */
  readonly #byAge = new Queue<Poller>();
  /** The callers that sleep, in the order in which they are to be woken. */
  readonly #asleep = new Queue<Poller>();
  /** The callers by lock id: a set if several want the same lock. */
  readonly #byId = new Map<bigint, Poller | Set<Poller>>();
  #timer: NodeJS.Timeout | undefined;

  get isEmpty(): boolean {
    return this.#byAge.size === 0;
  }

  join(id: bigint): Poller {
    const poller = new Poller(id);
    poller.aged = this.#byAge.push(poller);
    const same = this.#byId.get(id);
    if (same === undefined) this.#byId.set(id, poller);
    else if (same instanceof Set) same.add(poller);
    else this.#byId.set(id, new Set([same, poller]));
    return poller;
  }

  /** Whether no other caller has waited for a place for longer. */
  isOldest(poller: Poller): boolean {
    return this.#byAge.first === poller;
  }

  /** Sleeps until it is time to try again, or until {@link wake} or {@link offerPlace} wakes the caller. */
  sleep(poller: Poller): Promise<void> {
    if (poller.wasWoken) {
      poller.wasWoken = false;
      return Promise.resolve();
    }
    poller.asleep = this.#asleep.push(poller);
    // The timer keeps the process alive, because somebody waits for the answer.
    this.#timer ??= setTimeout(() => this.#tick(), jittered(interval));
    return new Promise((resolve) => {
      poller.wakeUp = resolve;
    });
  }

  leave(poller: Poller): void {
    if (poller.aged !== undefined) this.#byAge.remove(poller.aged);
    if (poller.asleep !== undefined) this.#asleep.remove(poller.asleep);
    const same = this.#byId.get(poller.id);
    if (same instanceof Set) same.delete(poller);
    if (same === poller || (same instanceof Set && same.size === 0)) this.#byId.delete(poller.id);
    if (!this.isEmpty) return;
    clearTimeout(this.#timer);
    this.#timer = undefined;
  }

  /** Wakes the callers that want a lock, because it may be free. */
  wake(id: bigint): void {
    const same = this.#byId.get(id);
    if (same instanceof Set) for (const poller of same) this.#wakeOne(poller);
    else if (same !== undefined) this.#wakeOne(same);
  }

  /** Wakes the oldest caller, because a place in the server may be free. */
  offerPlace(): void {
    const oldest = this.#byAge.first;
    if (oldest !== undefined) this.#wakeOne(oldest);
  }

  #wakeOne(poller: Poller): void {
    if (poller.asleep?.isQueued !== true) {
      poller.wasWoken = true;
      return;
    }
    this.#asleep.remove(poller.asleep);
    poller.wakeUp();
  }

  #tick(): void {
    const began = performance.now();
    const steps = Math.max(1, Math.ceil(this.#asleep.size / together));
    for (let woken = 0; woken < together; woken += 1) {
      const next = this.#asleep.first;
      if (next === undefined) break;
      this.#wakeOne(next);
    }
    this.#timer = undefined;
    // Those that were woken send their tries before this runs.
    setImmediate(() => {
      if (this.isEmpty || this.#timer !== undefined) return;
      const took = performance.now() - began;
      const pause = jittered(Math.max(interval / steps, took / busyShare, shortest));
      this.#timer = setTimeout(() => this.#tick(), pause);
    });
  }
}

function jittered(milliseconds: number): number {
  return milliseconds * (0.9 + Math.random() * 0.2);
}
