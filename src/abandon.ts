/**
 * Waits for `work`, or for the first of the signals to abort, whichever comes first.
 *
 * An abort abandons the work, it does not stop it: a statement that was sent may still be carried out, and only its
 * answer says what it did. `late` gets that answer and undoes it. So what is granted to a caller that has given up goes
 * back, and the circuit breaker around the work hears how the backend really did.
 *
 * @throws the `reason` of the signal that aborted
 */
export async function abandonOnAbort<T>(
  work: Promise<T>,
  signals: ReadonlyArray<AbortSignal | undefined>,
  late: (answer: T) => void,
): Promise<T> {
  const live = signals.filter((signal) => signal !== undefined);
  let stop: () => void = () => {};
  const aborted = new Promise<AbortSignal>((resolve) => {
    const listeners = live.map((signal) => [signal, () => resolve(signal)] as const);
    for (const [signal, listener] of listeners) signal.addEventListener("abort", listener, { once: true });
    stop = () => {
      for (const [signal, listener] of listeners) signal.removeEventListener("abort", listener);
    };
    const already = live.find((signal) => signal.aborted);
    if (already !== undefined) resolve(already);
  });
  try {
    const first = await Promise.race([work.then((answer) => ({ answer })), aborted]);
    if (!(first instanceof AbortSignal)) {
      // The abort may have come between the answer and this line: it was too late, and the caller has its answer.
      return first.answer;
    }
    work.then(late, () => {});
    throw first.reason;
  } finally {
    stop();
  }
}
