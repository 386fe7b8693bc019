/** What is listened to of an `AbortSignal`, or of a {@link Stop}. */
export interface StopSignal {
  readonly aborted: boolean;
  readonly reason: unknown;
  throwIfAborted(): void;
  addEventListener(type: "abort", listener: AbortListener): void;
  removeEventListener(type: "abort", listener: AbortListener): void;
}

type AbortListener = (event: { readonly target: unknown }) => void;

/**
 * An `AbortController` and its signal, for this library's own use. Every attempt listens to one, and the platform's take
 * longer to listen to than all else that an attempt does before its statement is sent.
 */
export class Stop implements StopSignal {
  readonly #listeners = new Set<AbortListener>();
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

  /** A second call changes nothing. */
  abort(reason: unknown): void {
    if (this.#reason !== undefined) return;
    this.#reason = { of: reason };
    for (const listener of this.#listeners) listener({ target: this });
  }

  addEventListener(_: "abort", listener: AbortListener): void {
    this.#listeners.add(listener);
  }

  removeEventListener(_: "abort", listener: AbortListener): void {
    this.#listeners.delete(listener);
  }
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
    const onAbort = (event: { target: unknown }): void => giveUp(event.target as StopSignal);
    const stopListening = (): void => {
      for (const signal of signals) signal?.removeEventListener("abort", onAbort);
    };
    const giveUp = (signal: StopSignal): void => {
      stopListening();
      abandon();
      reject(signal.reason);
    };
    for (const signal of signals) signal?.addEventListener("abort", onAbort);
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
