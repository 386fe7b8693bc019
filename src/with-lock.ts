import { LockNotHeldError } from "./errors.ts";
import type { Lock } from "./locker.ts";

/**
 * Runs `fn` under a lock that has just been acquired, and gives the lock back however `fn` ends.
 *
 * Rejects with the loss as soon as the lock is lost, even if `fn` ignores `lock.signal` and runs on, or never settles. An
 * error of `fn` wins over one of the release, which it then carries as `suppressed`, where it is an object.
 */
export async function runUnder<T>(lock: Lock, fn: (lock: Lock) => T | Promise<T>): Promise<T> {
  let value: T;
  try {
    value = await untilLost(lock, fn);
  } catch (error) {
    await lock.release().catch((suppressed: unknown) => carry(error, suppressed));
    throw error;
  }
  await lock.release().catch((error: unknown) => {
    // What ended the lock says more than that it had ended.
    throw error instanceof LockNotHeldError && lock.signal.aborted ? lock.signal.reason : error;
  });
  return value;
}

function untilLost<T>(lock: Lock, fn: (lock: Lock) => T | Promise<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    const onLoss = (): void => reject(lock.signal.reason);
    lock.signal.addEventListener("abort", onLoss, { once: true });
    // An async function, for `fn` may throw before it makes a promise.
    const run = async (): Promise<T> => fn(lock);
    run()
      .then(resolve, reject)
      .finally(() => lock.signal.removeEventListener("abort", onLoss));
  });
}

function carry(error: unknown, suppressed: unknown): void {
  if (typeof error === "object" && error !== null && Object.isExtensible(error)) {
    Object.defineProperty(error, "suppressed", { value: suppressed, configurable: true, writable: true });
  }
}
