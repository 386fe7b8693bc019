import { AsyncLocalStorage } from "node:async_hooks";
import { LockNotHeldError } from "../contract/errors.ts";
import type { Lock } from "../contract/locker.ts";

/** A lock that is held around the code that runs. */
interface Around {
  /** The locker that both belong to. */
  readonly owner: object;
  readonly id: bigint;
  /** The client of the transaction that has the lock, if it is one of the caller's. */
  readonly client?: object | undefined;
  isHeld(): boolean;
}

const around = new AsyncLocalStorage<readonly Around[]>();

/** Whether this is called by a function that {@link runAround} runs under the lock at this moment, or by what that started. */
export function isAround(owner: object, id: bigint): boolean {
  return (around.getStore() ?? []).some((one) => one.owner === owner && one.id === id && one.isHeld());
}

/** Whether this is called by a function that runs under a lock in the transaction of this client, or by what that started. */
export function isInTransactionOf(client: object): boolean {
  return (around.getStore() ?? []).some((one) => one.client === client && one.isHeld());
}

/** Runs `fn` so that {@link isAround} knows of the lock. Never throws, but rejects. */
export function runAround<T>(lock: Around, fn: () => T | Promise<T>): Promise<T> {
  // An async function, for `fn` may throw before it makes a promise.
  return around.run([...(around.getStore() ?? []), lock], async () => fn());
}

/**
 * Runs `fn` under a lock that has just been acquired, and gives the lock back however `fn` ends.
 *
 * Rejects with the loss as soon as the lock is lost, even if `fn` ignores `lock.signal` and runs on, or never settles. An
 * error of `fn` wins over one of the release, which it then carries as `suppressed`, where it is an object.
 */
export async function runUnder<T>(owner: object, lock: Lock, fn: (lock: Lock) => T | Promise<T>): Promise<T> {
  let value: T;
  try {
    const known = { owner, id: lock.id, isHeld: () => lock.held };
    value = await untilLost(lock, () => runAround(known, () => fn(lock)));
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

function untilLost<T>(lock: Lock, work: () => Promise<T>): Promise<T> {
  const { signal } = lock;
  return new Promise((resolve, reject) => {
    // It may have been lost between its grant and this step.
    signal.throwIfAborted();
    const onLoss = (): void => reject(signal.reason);
    signal.addEventListener("abort", onLoss, { once: true });
    work()
      .then(resolve, reject)
      .finally(() => signal.removeEventListener("abort", onLoss));
  });
}

/** Keeps a second error with the first, where that can carry it and has none yet, such as a `SuppressedError`. */
export function carry(error: unknown, suppressed: unknown): void {
  if (typeof error !== "object" || error === null || "suppressed" in error) return;
  Reflect.defineProperty(error, "suppressed", { value: suppressed, configurable: true, writable: true });
}
