import { elapsedSince, type Instant, now } from "../runtime/clock.ts";
import { abandonOnAbort, pauseFor, Stop, type StopSignal } from "../runtime/stop-signal.ts";

/** The `lock_timeout` for a bound in milliseconds: at least 1, because 0 would mean no bound. */
export function lockTimeout(bound: number): string {
  return Math.max(Math.ceil(bound), 1).toString();
}

/** Milliseconds until a wait is cancelled again, at first and at most. It may not have begun when the first cancellation came. */
const pauses = { first: 20, longest: 500 };

/** In this many milliseconds before its bound, a wait isn't cancelled. */
const almostOver = 50;

/**
 * Whether the server is about to end a wait by itself, so that it need not be cancelled over another connection. That is always so for a
 * caller that leaves at the bound of its wait. A cancellation would race with the server, and might hit the next statement.
 *
 * @param bound of the wait, in milliseconds
 */
export function isAlmostOver(bound: number, begunAt: Instant): boolean {
  return bound - elapsedSince(begunAt) <= almostOver;
}

/** A statement that waits in the server. */
interface WaitingStatement<T> {
  readonly answer: Promise<T>;
  /** Milliseconds after which the server ends the wait by itself. */
  readonly bound: number;
  /** Ends the wait earlier. */
  readonly signal: StopSignal;
  cancel(): Promise<void>;
}

/**
 * Waits for the answer to a statement that has just been sent, and waits in the server. When its signal aborts, it cancels the statement
 * over and over, because a cancellation that arrives before the statement does nothing. It settles when the statement is answered and no
 * cancellation is under way, so that none hits the next statement.
 */
export async function untilAnswered<T>({ answer, bound, signal, cancel }: WaitingStatement<T>): Promise<T> {
  const begunAt = now();
  const answered = new Stop();
  const settled = answer.then(
    () => answered.abort(undefined),
    () => answered.abort(undefined),
  );
  const cancelUntilAnswered = async (): Promise<void> => {
    if (isAlmostOver(bound, begunAt)) await pauseFor(2 * almostOver, [answered]).catch(() => {});
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
  return answer;
}
