/** What ends an attempt before its time. */
export type StopSignal = AbortSignal | Stop;

/**
 * An `AbortController` and its signal, for this library's own use. Every attempt listens to one, and the platform's take
 * longer to listen to than all else that an attempt does before its statement is sent.
 *
 * Those who listen are linked in a ring. A `Set`, filled and emptied by every attempt, leaves behind tables that keep what was
 * in them alive until the next full collection.
 */
export class Stop {
  readonly #ring = new Link(() => {});
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

  /** Calls back on an abort, unless the link was cut before. */
  listen(onAbort: () => void): Link {
    const link = new Link(onAbort);
    link.insertBefore(this.#ring);
    return link;
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

class Link {
  readonly onAbort: () => void;
  previous: Link = this;
  next: Link = this;

  constructor(onAbort: () => void) {
    this.onAbort = onAbort;
  }

  insertBefore(other: Link): void {
    this.next = other;
    this.previous = other.previous;
    other.previous.next = this;
    other.previous = this;
  }

  cut(): void {
    this.previous.next = this.next;
    this.next.previous = this.previous;
    this.previous = this;
    this.next = this;
  }
}

/** As {@link Stop.listen}, for either kind. */
function listen(signal: StopSignal, onAbort: () => void): { cut(): void } {
  if (signal instanceof Stop) return signal.listen(onAbort);
  signal.addEventListener("abort", onAbort);
  return { cut: () => signal.removeEventListener("abort", onAbort) };
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
    const listening: Array<{ cut(): void }> = [];
    const stopListening = (): void => {
      for (const link of listening) link.cut();
    };
    const giveUp = (signal: StopSignal): void => {
      stopListening();
      abandon();
      reject(signal.reason);
    };
    for (const signal of signals) {
      if (signal !== undefined) listening.push(listen(signal, () => giveUp(signal)));
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
