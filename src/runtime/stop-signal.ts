import type { AbortSignalLike } from "../contract/locker.ts";

/** What ends an attempt before its time. */
export interface StopSignal {
  readonly aborted: boolean;
  readonly reason: unknown;
  throwIfAborted(): void;
  /** Calls back on an abort, unless the link was cut before. */
  listen(onAbort: () => void): Link;
}

/** A place in the ring of those who listen. What listens over and over is one itself, and needs no function for it. */
export class Link {
  previous: Link;
  next: Link;

  constructor() {
    this.previous = this;
    this.next = this;
  }

  /** The signal has aborted; the link is cut by then. */
  onAbort(): void {}

  /** It has been cut. */
  onCut(): void {}

  insertBefore(other: Link): void {
    this.next = other;
    this.previous = other.previous;
    other.previous.next = this;
    other.previous = this;
  }

  /** Does nothing the second time. */
  cut(): void {
    this.previous.next = this.next;
    this.next.previous = this.previous;
    this.previous = this;
    this.next = this;
    this.onCut();
  }
}

/** Listens with a function. */
class Listener extends Link {
  readonly #listener: () => void;

  constructor(listener: () => void) {
    super();
    this.#listener = listener;
  }

  override onAbort(): void {
    this.#listener();
  }
}

/**
 * An `AbortController` and its signal, for this library's own use: every attempt listens to one, and listening to the platform's own
 * costs more than all else that an attempt does before its statement is sent.
 *
 * Those who listen are linked in a ring. A `Set` that every attempt fills and empties leaves tables behind that keep what was in them
 * alive until the next full collection.
 */
export class Stop implements StopSignal {
  readonly #ring = new Link();
  #reason: { readonly of: unknown } | undefined;

  get aborted(): boolean {
    return this.#reason !== undefined;
  }

  get reason(): unknown {
    return this.#reason?.of;
  }

  throwIfAborted(): void {
    if (this.#reason !== undefined) throw this.#reason.of;
  }

  listen(onAbort: () => void): Link {
    const link = new Listener(onAbort);
    this.add(link);
    return link;
  }

  /** Calls `link.onAbort()` on an abort, unless the link is cut before. It may be in one ring at a time. */
  add(link: Link): void {
    link.insertBefore(this.#ring);
  }

  /** A second call changes nothing. */
  abort(reason: unknown): void {
    if (this.#reason !== undefined) return;
    this.#reason = { of: reason };
    for (;;) {
      const { next } = this.#ring;
      if (next === this.#ring) return;
      next.cut();
      next.onAbort();
    }
  }
}

/**
 * A signal of a caller's. However many attempts listen, it has one listener of ours: Node.js warns of more than ten, and goes through
 * all of them to add one.
 */
class CallersSignal implements StopSignal {
  readonly #signal: AbortSignalLike;
  #listening: Stop | undefined;
  #links = 0;

  constructor(signal: AbortSignalLike) {
    this.#signal = signal;
  }

  get aborted(): boolean {
    return this.#signal.aborted;
  }

  /** Some polyfills have none. */
  get reason(): unknown {
    const { reason } = this.#signal;
    if (reason !== undefined || !this.aborted) return reason;
    this.#ownReason ??= new DOMException("This operation was aborted", "AbortError");
    return this.#ownReason;
  }
  #ownReason: DOMException | undefined;

  throwIfAborted(): void {
    if (this.aborted) throw this.reason;
  }

  listen(onAbort: () => void): Link {
    if (this.#listening === undefined) {
      this.#listening = new Stop();
      this.#signal.addEventListener("abort", this.#onAbort);
    }
    this.#links += 1;
    const link = new CountedListener(onAbort, this.#onCut);
    this.#listening.add(link);
    return link;
  }

  readonly #onAbort = (): void => {
    this.#listening?.abort(this.reason);
  };

  readonly #onCut = (): void => {
    this.#links -= 1;
    if (this.#links > 0) return;
    this.#listening = undefined;
    this.#signal.removeEventListener("abort", this.#onAbort);
  };
}

/** Listens with a function, and says once that it has been cut. */
class CountedListener extends Listener {
  #onCut: (() => void) | undefined;

  constructor(listener: () => void, onCut: () => void) {
    super(listener);
    this.#onCut = onCut;
  }

  override onCut(): void {
    const onCut = this.#onCut;
    this.#onCut = undefined;
    onCut?.();
  }
}

const callersSignals = new WeakMap<AbortSignalLike, CallersSignal>();

/** The signal of a caller's, as everything in here listens to it. */
export function stopSignalOf(signal: AbortSignalLike): StopSignal;
export function stopSignalOf(signal: AbortSignalLike | undefined): StopSignal | undefined;
export function stopSignalOf(signal: AbortSignalLike | undefined): StopSignal | undefined {
  if (signal === undefined) return undefined;
  const known = callersSignals.get(signal) ?? new CallersSignal(signal);
  callersSignals.set(signal, known);
  return known;
}

/**
 * Waits for `work`, or for the first of the signals to abort, whichever comes first.
 *
 * An abort abandons the work, it does not stop it: a statement that was sent may still be carried out, and only its
 * answer says what it did. `abandon` is called in the very step of the abort, so that whoever has to see to that answer
 * is in the books before anything else happens. And the circuit breaker around the work hears how the backend really
 * did, not that a caller had no patience.
 *
 * @throws the `reason` of the signal that aborted, or what `work` throws
 */
export function abandonOnAbort<T>(
  work: Promise<T>,
  signals: ReadonlyArray<StopSignal | undefined>,
  abandon: () => void = () => {},
): Promise<T> {
  return new Promise((resolve, reject) => {
    const listening: Link[] = [];
    const stopListening = (): void => {
      for (const link of listening) link.cut();
    };
    let hasGivenUp = false;
    const giveUp = (signal: StopSignal): void => {
      // A signal may abort while it is asked whether it has.
      if (hasGivenUp) return;
      hasGivenUp = true;
      stopListening();
      abandon();
      reject(signal.reason);
    };
    for (const signal of signals) {
      if (signal !== undefined) listening.push(signal.listen(() => giveUp(signal)));
    }
    // After an abort these find the promise rejected already, and do nothing.
    work.then(
      (value) => {
        stopListening();
        resolve(value);
      },
      (error: unknown) => {
        stopListening();
        reject(error);
      },
    );
    const already = signals.find((signal) => signal?.aborted);
    if (already !== undefined) giveUp(already);
  });
}

/** Waits so many milliseconds. @throws the `reason` of the signal that aborted; no timer is left */
export function pauseFor(
  milliseconds: number,
  signals: ReadonlyArray<StopSignal | undefined>,
): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const over = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, milliseconds);
  });
  return abandonOnAbort(over, signals, () => clearTimeout(timer));
}
