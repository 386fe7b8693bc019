import { abandonOnAbort, pauseFor, Stop, type StopSignal } from "../runtime/stop-signal.ts";

/** The `lock_timeout` for a bound in milliseconds: at least 1, because 0 would mean no bound. */
export function lockTimeout(bound: number): string {
  return Math.max(Math.ceil(bound), 1).toString();
}

/** Milliseconds until a wait is cancelled again, at first and at most. It may not have begun when the first cancellation came. */
const pauses = { first: 20, longest: 500 };

/**
 * Waits for the answer to a statement that waits in the server. When `signal` aborts, it cancels the statement over and over, because a
 * cancellation that arrives before the statement does nothing. It settles when the statement is answered and no cancellation is under way,
 * so that none hits the next statement.
 */
export async function untilAnswered<T>(
  statement: Promise<T>,
  signal: StopSignal,
  cancel: () => Promise<void>,
): Promise<T> {
  const answered = new Stop();
  const settled = statement.then(
    () => answered.abort(undefined),
    () => answered.abort(undefined),
  );
  const cancelUntilAnswered = async (): Promise<void> => {
    for (let pause = pauses.first; !answered.aborted; pause = Math.min(2 * pause, pauses.longest)) {
      await cancel();
      await pauseFor(pause, [answered]).catch(() => {});
    }
  };
  let canceled: Promise<void> | undefined;
  await abandonOnAbort(settled, [signal], () => {
    canceled = cancelUntilAnswered();
  }).catch(() => {});
  await settled;
  await canceled;
  return statement;
}
