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
  signals: ReadonlyArray<AbortSignal | undefined>,
  abandon: () => void = () => {},
): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (event: { target: unknown }): void => giveUp(event.target as AbortSignal);
    const stopListening = (): void => {
      for (const signal of signals) signal?.removeEventListener("abort", onAbort);
    };
    const giveUp = (signal: AbortSignal): void => {
      stopListening();
      abandon();
      reject(signal.reason);
    };
    for (const signal of signals) signal?.addEventListener("abort", onAbort);
    // After an abort these find the promise rejected already, and do nothing.
    work.then(resolve, reject).finally(stopListening);
    const already = signals.find((signal) => signal?.aborted);
    if (already !== undefined) giveUp(already);
  });
}
