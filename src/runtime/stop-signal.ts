import type { AbortSignalLike } from "../contract/locker.ts";

/** A signal that ends an attempt early. */
export interface StopSignal {
  readonly aborted: boolean;
  readonly reason: unknown;
  throwIfAborted(): void;
  /** Calls `onAbort` on an abort, unless the returned link was cut before. */
  listen(onAbort: () => void): Link;
}

/** A listener's place in the ring of all listeners. An object that listens often extends it, and so needs no function for each time. */
export class Link {
  previous: Link = this;
  next: Link = this;

  /** Called when the signal aborts. The link is cut by then. */
  onAbort(): void {}

  /** Stops listening. A second call does nothing. */
  cut(): void {
    this.previous.next = this.next;
    this.next.previous = this.previous;
    this.previous = this;
    this.next = this;
  }
}

/** A link that calls a function on an abort. */
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
 * An `AbortController` and its signal in one, for internal use. Every attempt listens to one, and listening to the platform's own
 * signal costs more than everything else an attempt does before its statement is sent.
 *
 * The listeners are linked in a ring. A `Set` that every attempt fills and empties leaves hash tables behind that keep their former
 * elements alive until the next full garbage collection.
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

  /**
   * Calls `link.onAbort()` on an abort, unless the link is cut before. A link is in at most one ring.
   *
   * @returns whether it has not aborted yet
   */
  add(link: Link): boolean {
    const ring = this.#ring;
    link.next = ring;
    link.previous = ring.previous;
    ring.previous.next = link;
    ring.previous = link;
    return this.#reason === undefined;
  }

  /** Aborts and calls every listener. A second call changes nothing. */
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
 * Wraps a caller's signal. However many attempts listen, the signal itself gets one listener: Node.js warns if there are more than
 * ten, and walks all of them to add another.
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

  /** The signal's own reason, or an `AbortError`, because signals of some polyfills have no reason. */
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

/** A link that calls a function on an abort, and another one, once, when it is cut. */
class CountedListener extends Listener {
  #onCut: (() => void) | undefined;

  constructor(listener: () => void, onCut: () => void) {
    super(listener);
    this.#onCut = onCut;
  }

  override cut(): void {
    super.cut();
    const onCut = this.#onCut;
    this.#onCut = undefined;
    onCut?.();
  }
}

const callersSignals = new WeakMap<AbortSignalLike, CallersSignal>();

/** The internal form of a caller's signal. */
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
 * An abort abandons the work but does not stop it: a statement that was sent may still be carried out, and only its answer says what
 * it did. `abandon` is called synchronously on the abort, so that whatever handles that answer is registered before any other code
 * runs. The circuit breaker around the work still sees how the work itself ended, not that a caller gave up.
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
      // A signal may abort while its `aborted` is read.
      if (hasGivenUp) return;
      hasGivenUp = true;
      stopListening();
      abandon();
      reject(signal.reason);
    };
    for (const signal of signals) {
      if (signal !== undefined) listening.push(signal.listen(() => giveUp(signal)));
    }
    // After an abort the promise is already rejected, and these do nothing.
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

/** Waits the given number of milliseconds. Leaves no timer behind on an abort. @throws the `reason` of the signal that aborted */
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
