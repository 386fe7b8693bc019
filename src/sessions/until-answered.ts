import { abandonOnAbort, pauseFor, Stop, type StopSignal } from "../runtime/stop-signal.ts";

/** The `lock_timeout` for a bound in milliseconds. 0 would be none at all. */
export function lockTimeout(bound: number): string {
  return Math.max(Math.ceil(bound), 1).toString();
}

/**
 * Milliseconds after which a wait is cancelled again, at first and at most: it may not have begun when the first cancellation
 * came.
 */
const pauses = { first: 20, longest: 500 };

/**
 * Waits for the answer of a statement that waits in the server. On an abort has it cancelled, over and over, because a cancellation
 * that comes before the statement does nothing; and settles when the statement has its answer and no cancellation is under way
 * any more, so that none hits the next statement.
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
