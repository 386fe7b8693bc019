import { longestTimer, setInterval } from "./clock.ts";

// A waiting promise alone doesn't keep a process alive: Node.js ends it with status 13 in the middle of an `await`. A socket or a timer
// does, but not everything that a caller waits for has one: the end of a function, a lock in memory, a breaker that takes its time.

/** Does nothing but keep the process alive, while it may. */
let heart: NodeJS.Timeout | undefined;
let calls = 0;

/** A caller begins to wait for an answer: the process lives until as many have ended as have begun. */
export function callBegan(): void {
  calls += 1;
  if (calls > 1) return;
  heart ??= setInterval(() => {}, longestTimer);
  heart.ref();
}

/** A caller that {@link callBegan} was told of has its answer. */
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
