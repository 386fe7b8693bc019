import { setTimeout as delay } from "node:timers/promises";

export interface UntilOptions {
  /** Milliseconds. Default 5000. */
  deadline?: number;
  /** Milliseconds between two polls. Default 10. */
  interval?: number;
  /** What is waited for, for the error. */
  what?: string;
}

type Falsy = false | 0 | 0n | "" | null | undefined;

/**
 * Polls `probe` until it returns something truthy, and resolves with that.
 *
 * @throws Error at the deadline, and whatever `probe` throws, at once.
 */
export async function until<T>(
  probe: () => T | Promise<T>,
  options: UntilOptions = {},
): Promise<Exclude<T, Falsy>> {
  const { deadline = 5000, interval = 10, what = probe.toString() } = options;
  const end = performance.now() + deadline;
  for (;;) {
    const value = await probe();
    if (value) return value as Exclude<T, Falsy>;
    if (performance.now() > end) throw new Error(`not within ${deadline} ms: ${what}`);
    await delay(interval);
  }
}
