import { longestTimer, setInterval } from "./clock.ts";

// A waiting promise alone doesn't keep a process alive: Node.js ends it with status 13 in the middle of an `await`. A socket or a timer
// does, but not everything that a caller waits for has one: the end of a function, a lock in memory, a breaker that takes its time.

/** A timer that only keeps the process alive, while it is ref'd. */
let heart: NodeJS.Timeout | undefined;
let calls = 0;

/** Keeps the process alive for a caller that begins to wait for an answer, until {@link callEnded} is called for it. */
export function callBegan(): void {
  calls += 1;
  if (calls > 1) return;
  heart ??= setInterval(() => {}, longestTimer);
  heart.ref();
}

/** Ends one {@link callBegan}: the caller has its answer. */
export function callEnded(): void {
  calls -= 1;
  if (calls === 0) heart?.unref();
}

/** Keeps the process alive until a caller has its answer. @throws what `answer` throws */
export async function aliveUntil<T>(answer: Promise<T>): Promise<T> {
  callBegan();
  try {
    return await answer;
  } finally {
    callEnded();
  }
}
