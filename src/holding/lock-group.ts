import { inspect } from "node:util";
import { LockNotAcquiredError } from "../contract/errors.ts";
import type { Lock, LockGroup, RefreshOptions } from "../contract/lock.ts";
import type { Duration } from "../contract/locker.ts";
import { monotonic } from "../runtime/clock.ts";
import { pauseFor, type StopSignal, stopSignalOf } from "../runtime/stop-signal.ts";
import type { Wanted } from "../waiting/attempt.ts";
import { tellLoss } from "../waiting/reentrancy.ts";

/** A lock that refreshes itself until `stopRefreshing()` is called. */
type Kept = Lock & { stopRefreshing(): void };

/**
 * Acquires several locks, all or none, within one wait.
 *
 * It first tries for all of them at once, because usually all are free. If one is held elsewhere, it keeps the granted locks with smaller
 * ids, releases the others, and waits for the held one; then it tries for the rest in the same way. A caller never waits while it holds
 * a lock with a larger id, so callers with overlapping keys cannot deadlock.
 *
 * Without a wait, it then takes the locks one by one in the order of their ids, so that of two callers that collide, one gets them all.
 * The other is still giving back what it got when it tried for all at once. A lock that is refused is therefore tried again for a
 * moment, a few times as long as the first try took.
 *
 * While it waits for later locks, it refreshes the earlier ones. If one is lost, the others are released.
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
  const start = monotonic();
  const inOrder = [...wanted].sort((a, b) => (a.id < b.id ? -1 : a.id > b.id ? 1 : 0));
  const take = (one: Wanted, wait: number): Promise<Kept> =>
    acquire({ ...one, wait, wholeWait: one.wait, alsoEndedBy: lost, autoRefresh: true });
  const keep = (locks: readonly Kept[]): void => {
    // All locks are recorded first, so that they are all released if one of them turns out to be lost.
    for (const lock of locks) taken.push(lock);
    for (const { signal } of locks) {
      // The lock may have been lost between its grant and this step.
      if (signal.aborted) throw signal.reason;
      signal.addEventListener("abort", () => firstLoss.abort(signal.reason), { once: true });
    }
  };
  try {
    while (taken.length < inOrder.length) {
      const rest = inOrder.slice(taken.length);
      const asked = monotonic();
      const outcomes = await Promise.allSettled(rest.map((one) => take(one, 0)));
      const refused = outcomes.findIndex(({ status }) => status === "rejected");
      const locks = outcomes.map((outcome) => (outcome.status === "fulfilled" ? outcome.value : undefined));
      const next = rest[refused];
      const kept = next === undefined ? locks.length : next.wait > 0 ? refused : 0;
      await giveBack(locks.slice(kept).filter((lock) => lock !== undefined)).catch(() => {});
      keep(locks.slice(0, kept).filter((lock) => lock !== undefined));
      if (next === undefined) break;
      if (next.wait > 0) {
        keep([await take(next, left(next, start))]);
      } else {
        const moment = Math.min(Math.max(3 * (monotonic() - asked), 20), 1_000);
        const until = monotonic() + moment;
        for (const one of inOrder) keep([await persist(() => take(one, 0), until, [one.signal, lost])]);
      }
    }
    const group = new HeldLockGroup(wanted, taken, firstLoss.signal);
    if (!group.held) await tellLoss(group);
    for (const [at, lock] of taken.entries()) if (!inOrder[at]?.autoRefresh) lock.stopRefreshing();
    return group;
  } catch (error) {
    await giveBack(taken).catch(() => {});
    throw error;
  }
}

/** Repeats a try until it is granted or a moment by {@link monotonic} has come. @throws what the last try throws */
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
      if (!isHeld || monotonic() >= until) throw error;
    }
    await pauseFor(1 + Math.random() * 9, signals);
  }
}

/** The milliseconds that are left of the wait; never 0, so that the last lock is tried for even if no time is left. */
function left({ wait }: Wanted, start: number): number {
  return Math.max(wait - (monotonic() - start), Number.MIN_VALUE);
}

/** Releases all locks at once. Rejects with the first failure once every release has settled. */
function giveBack(taken: readonly Lock[]): Promise<void> {
  return allSettled(taken.map((lock) => lock.release()));
}

/** Waits until all promises have settled. @throws the first failure */
async function allSettled(work: ReadonlyArray<Promise<void>>): Promise<void> {
  const outcomes = await Promise.allSettled(work);
  for (const outcome of outcomes) if (outcome.status === "rejected") throw outcome.reason;
}

class HeldLockGroup implements LockGroup {
  readonly locks: readonly Lock[];
  readonly signal: AbortSignal;
  readonly #taken: readonly Lock[];

  constructor(wanted: readonly Wanted[], taken: readonly Lock[], firstLoss: AbortSignal) {
    const byKey = new Map(taken.map((lock) => [lock.key, lock]));
    this.locks = wanted.flatMap(({ key }) => byKey.get(key) ?? []);
    this.signal = firstLoss;
    this.#taken = taken;
  }

  get held(): boolean {
    return this.locks.every((lock) => lock.held);
  }

  get expiresAt(): Date {
    return new Date(least(this.locks.map((lock) => lock.expiresAt.getTime())));
  }

  get remaining(): number {
    return least(this.locks.map((lock) => lock.remaining));
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

  /** What `JSON.stringify` writes. */
  toJSON(): object {
    return { held: this.held, locks: this.locks };
  }

  /** What `console.log` shows. */
  [inspect.custom](_depth: unknown, options: object): string {
    return `LockGroup ${inspect(this.toJSON(), options)}`;
  }
}

/** `Math.min` takes no more arguments than the stack has room for. */
function least(numbers: readonly number[]): number {
  return numbers.reduce((one, other) => Math.min(one, other));
}
