import { LockNotAcquiredError } from "../contract/errors.ts";
import type { Lock, LockGroup, RefreshOptions } from "../contract/lock.ts";
import type { Duration } from "../contract/locker.ts";
import { pauseFor, type StopSignal, stopSignalOf } from "../runtime/stop-signal.ts";
import type { Wanted } from "../waiting/attempt.ts";

/** A lock that refreshes itself until it is told not to. */
type Kept = Lock & { stopRefreshing(): void };

/**
 * Takes several locks, all or none, within one wait.
 *
 * All are tried for at once, as most often nobody has one of them. If somebody does, those before it are kept, in the order of the
 * ids, and it is waited for; then the rest is tried for, and so on. Nobody ever waits with a lock in hand whose id is larger, so
 * callers with overlapping keys cannot deadlock.
 *
 * Without a wait, they are then taken one by one in that order, so that of two callers that meet, one has them all. What the other one
 * got when it tried for all at once is on its way back by then: a lock that is refused is tried for again for a moment, a few times as
 * long as all at once took.
 *
 * As long as the later ones are awaited, the earlier ones are refreshed. The loss of one ends the rest.
 *
 * @throws what `acquire` throws, {LockLostError} or {LockExpiredError}; then none is held
 */
export async function acquireInOrder(
  wanted: readonly Wanted[],
  acquire: (wanted: Wanted) => Promise<Kept>,
): Promise<LockGroup> {
  const firstLoss = new AbortController();
  const lost = stopSignalOf(firstLoss.signal);
  const taken: Kept[] = [];
  const start = performance.now();
  const inOrder = [...wanted].sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0));
  const take = (one: Wanted, wait: number): Promise<Kept> =>
    acquire({ ...one, wait, alsoEndedBy: lost, autoRefresh: true });
  const keep = (...locks: readonly Kept[]): void => {
    // First all of them: one that was lost must not keep those after it from being given back.
    taken.push(...locks);
    for (const { signal } of locks) {
      // It may have been lost between its grant and this step.
      if (signal.aborted) throw signal.reason;
      signal.addEventListener("abort", () => firstLoss.abort(signal.reason), { once: true });
    }
  };
  try {
    while (taken.length < inOrder.length) {
      const rest = inOrder.slice(taken.length);
      const asked = performance.now();
      const outcomes = await Promise.allSettled(rest.map((one) => take(one, 0)));
      const refused = outcomes.findIndex(({ status }) => status === "rejected");
      const locks = outcomes.map((outcome) => (outcome.status === "fulfilled" ? outcome.value : undefined));
      const next = rest[refused];
      const kept = next === undefined ? locks.length : next.wait > 0 ? refused : 0;
      await giveBack(locks.slice(kept).filter((lock) => lock !== undefined)).catch(() => {});
      keep(...locks.slice(0, kept).filter((lock) => lock !== undefined));
      if (next === undefined) break;
      if (next.wait > 0) {
        keep(await take(next, left(next, start)).catch((error) => Promise.reject(inTime(next, error))));
      } else {
        const moment = Math.min(Math.max(3 * (performance.now() - asked), 20), 1_000);
        const until = performance.now() + moment;
        for (const one of inOrder) keep(await persist(() => take(one, 0), until, [one.signal, lost]));
      }
    }
    firstLoss.signal.throwIfAborted();
  } catch (error) {
    await giveBack(taken).catch(() => {});
    throw error;
  }
  for (const [at, lock] of taken.entries()) if (!inOrder[at]?.autoRefresh) lock.stopRefreshing();
  return new HeldLockGroup(wanted, taken, firstLoss.signal);
}

/** Tries until it is granted, or that time has come by `performance.now()`. @throws what the last try throws */
async function persist(
  attempt: () => Promise<Kept>,
  until: number,
  signals: ReadonlyArray<StopSignal | undefined>,
): Promise<Kept> {
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      const isHeld = error instanceof LockNotAcquiredError && error.reason === "held";
      if (!isHeld || performance.now() >= until) throw error;
    }
    await pauseFor(1 + Math.random() * 9, signals);
  }
}

/** Milliseconds. The last one is worth a try with nothing left. */
function left({ wait }: Wanted, start: number): number {
  return Math.max(wait - (performance.now() - start), Number.MIN_VALUE);
}

/** What a caller is told whose wait is over: how long that was. */
function inTime({ key, wait }: Wanted, error: unknown): unknown {
  if (!(error instanceof LockNotAcquiredError) || error.reason !== "wait-timeout") return error;
  return new LockNotAcquiredError({ key, reason: "wait-timeout", waited: wait, cause: error.cause });
}

/** All at once. Tries every one, and then rejects with the first failure. */
function giveBack(taken: readonly Lock[]): Promise<void> {
  return allSettled(taken.map((lock) => lock.release()));
}

/** When all have settled. @throws the first failure */
async function allSettled(work: ReadonlyArray<Promise<void>>): Promise<void> {
  const outcomes = await Promise.allSettled(work);
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
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

  get expiresAt(): Date {
    return new Date(Math.min(...this.locks.map((lock) => lock.expiresAt.getTime())));
  }

  get remaining(): number {
    return Math.min(...this.locks.map((lock) => lock.remaining));
  }

  assertHeld(): void {
    for (const lock of this.locks) lock.assertHeld();
  }

  refresh(ttl?: Duration, options?: RefreshOptions): Promise<void> {
    return allSettled(this.locks.map((lock) => lock.refresh(ttl, options)));
  }

  release(): Promise<void> {
    return giveBack(this.#taken);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.all(this.#taken.map((lock) => lock[Symbol.asyncDispose]()));
  }
}
