import { LockNotAcquiredError } from "../contract/errors.ts";
import type { Duration, Lock, LockGroup, RefreshOptions } from "../contract/locker.ts";
import type { Wanted } from "../waiting/admission.ts";
import type { HeldLock } from "./held-lock.ts";

/**
 * Takes several locks, all or none, within one wait. Everybody takes them in the order of their ids, so that of two callers
 * who want some of the same, neither ever waits for the other while the other waits for it.
 *
 * While the later ones are awaited, the earlier ones are refreshed. The loss of one ends the rest.
 *
 * @throws what `acquire` throws, {LockLostError} or {LockExpiredError}; then none is held
 */
export async function acquireInOrder(
  wanted: readonly Wanted[],
  acquire: (wanted: Wanted) => Promise<HeldLock>,
): Promise<LockGroup> {
  const firstLoss = new AbortController();
  const taken: HeldLock[] = [];
  const start = performance.now();
  const inOrder = [...wanted].sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0));
  try {
    for (const one of inOrder) {
      const wait = Math.max(one.wait - (performance.now() - start), 0);
      const signals = [...one.signals, firstLoss.signal];
      const lock = await acquire({ ...one, wait, signals, autoRefresh: true }).catch((error: unknown) => {
        throw isOverdue(error, wait) && one.wait > 0 ? overdue(one, error) : error;
      });
      taken.push(lock);
      const { signal } = lock;
      // It may have been lost between its grant and this step.
      if (signal.aborted) throw signal.reason;
      signal.addEventListener("abort", () => firstLoss.abort(signal.reason), { once: true });
    }
    firstLoss.signal.throwIfAborted();
  } catch (error) {
    await giveBack(taken).catch(() => {});
    throw error;
  }
  for (const [at, lock] of taken.entries()) if (!inOrder[at]?.autoRefresh) lock.stopRefreshing();
  return new HeldLockGroup(wanted, taken, firstLoss.signal);
}

/** The last one may have been tried with nothing left of the wait. */
function isOverdue(error: unknown, left: number): boolean {
  if (!(error instanceof LockNotAcquiredError)) return false;
  return error.reason === "wait-timeout" || (error.reason === "held" && left === 0);
}

function overdue({ key, wait }: Wanted, cause: unknown): LockNotAcquiredError {
  return new LockNotAcquiredError({ key, reason: "wait-timeout", waited: wait, cause });
}

/** In reverse. Tries every one, and then rejects with the first failure. */
async function giveBack(taken: readonly Lock[]): Promise<void> {
  const failures: unknown[] = [];
  for (const lock of [...taken].reverse()) {
    await lock.release().catch((error: unknown) => failures.push(error));
  }
  if (failures.length > 0) throw failures[0];
}

class HeldLockGroup implements LockGroup {
  readonly locks: readonly Lock[];
  readonly signal: AbortSignal;
  readonly #taken: readonly Lock[];

  constructor(wanted: readonly Wanted[], taken: readonly Lock[], firstLoss: AbortSignal) {
    this.locks = wanted.flatMap(({ key }) => taken.filter((lock) => lock.key === key));
    this.signal = firstLoss;
    this.#taken = taken;
  }

  get held(): boolean {
    return this.locks.every((lock) => lock.held);
  }

  assertHeld(): void {
    for (const lock of this.locks) lock.assertHeld();
  }

  async refresh(ttl?: Duration, options?: RefreshOptions): Promise<void> {
    const outcomes = await Promise.allSettled(this.locks.map((lock) => lock.refresh(ttl, options)));
    for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
  }

  release(): Promise<void> {
    return giveBack(this.#taken);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const lock of [...this.#taken].reverse()) await lock[Symbol.asyncDispose]();
  }
}
