import { AsyncLocalStorage } from "node:async_hooks";
import { LockNotHeldError } from "../contract/errors.ts";
import type { Lock } from "../contract/lock.ts";
import type { LockScope, OwnHold } from "../contract/not-acquired-sentence.ts";
import { aliveUntil } from "../runtime/process-life.ts";
import { SiblingGate } from "./sibling-gate.ts";

/** A lock that is held around the code that runs. */
export interface Around {
  /** The locker that the lock belongs to. */
  readonly owner: object;
  readonly id: bigint;
  /** What runs the code under it. */
  readonly by: LockScope;
  /** The client of the transaction that has the lock, if it is the caller's own. */
  readonly client?: object | undefined;
  /** Absent if no call can share the lock, as with a transaction. */
  readonly scope?: Scope;
  isHeld(): boolean;
}

/** The lock of a `withLock`, while its function runs. */
export interface Scope {
  readonly lock: Lock;
  /** Orders the calls that share the lock. */
  readonly gate: SiblingGate;
  /** Called when the function has ended. */
  readonly onEnd: Set<() => void>;
}

const around = new AsyncLocalStorage<readonly Around[]>();

/**
 * The lock around a call: that of the innermost function which {@link runAround} is running under the lock at this moment, if that
 * function, or anything it started, makes the call.
 *
 * Node.js knows only which call started which. That can include an unrelated caller's work, because a limiter starts it when another
 * caller's work has ended. So a call shares a lock only if it asks to.
 */
export function lockAround(owner: object, id: bigint): Around | undefined {
  const locks = around.getStore();
  // The usual case, which needs no closure.
  if (locks === undefined) return undefined;
  return locks.findLast((one) => one.owner === owner && one.id === id && one.isHeld());
}

/** How the caller holds the lock around it, for the error of its call; `undefined` if it doesn't. */
export function ownHoldOf(
  around: Around | undefined,
  { reentrant }: { readonly reentrant: boolean | undefined },
): OwnHold | undefined {
  if (around === undefined || !around.isHeld()) return undefined;
  return { by: around.by, canShare: reentrant === false && around.scope !== undefined };
}

/** Whether the caller is a function that runs under a lock in the transaction of this client, or was started by one. */
export function isInTransactionOf(client: object): boolean {
  return (around.getStore() ?? []).some((one) => one.client === client && one.isHeld());
}

/** Runs `fn` so that {@link lockAround} knows of the locks. Rejects instead of throwing. */
export function runAround<T>(locks: readonly Around[], fn: () => T | Promise<T>): Promise<T> {
  // An async function, because `fn` may throw before it returns a promise.
  return around.run([...(around.getStore() ?? []), ...locks], async () => fn());
}

/** One lock, or several, that have just been acquired. */
export interface Acquired {
  readonly held: boolean;
  readonly signal: AbortSignal;
  assertHeld(): void;
  release(): Promise<void>;
}

/**
 * Runs `fn` under locks that have just been acquired, and gives them back however `fn` ends.
 *
 * Rejects with the loss as soon as one of them is lost, even if `fn` ignores `signal` and runs on, or never settles. An error of `fn` wins
 * over one of the release, which it then carries as `suppressed`, if it is an object.
 */
export async function runUnder<T, L extends Acquired>(
  { owner, by, locks }: { owner: object; by: LockScope; locks: readonly Lock[] },
  acquired: L,
  fn: (acquired: L) => T | Promise<T>,
): Promise<T> {
  const scopes = locks.map((lock): Scope => ({ lock, gate: new SiblingGate(), onEnd: new Set() }));
  const known = scopes.map((scope) => {
    const { lock } = scope;
    return { owner, id: lock.id, by, scope, isHeld: () => lock.held };
  });
  let value: T;
  try {
    if (!acquired.held) await tellLoss(acquired);
    value = await aliveUntil(untilLost(acquired, () => runAround(known, () => fn(acquired))));
  } catch (error) {
    end(scopes);
    await acquired.release().catch((suppressed: unknown) => carry(error, suppressed));
    throw error;
  }
  end(scopes);
  await acquired.release().catch((error: unknown) => {
    // The reason for the loss says more than the error of the release, which only says that the lock had ended.
    throw error instanceof LockNotHeldError && acquired.signal.aborted ? acquired.signal.reason : error;
  });
  return value;
}

/** Ends the handles of all calls that still share these locks. */
function end(scopes: readonly Scope[]): void {
  for (const { onEnd } of scopes) for (const tell of onEnd) tell();
}

/**
 * Throws the loss of a lock that has ended before its caller gets it or its function begins, for example because an event listener took
 * longer than the TTL. Call it after `held` was read as false: reading it ends the lock in the next microtask, even if the timer of the TTL
 * has not fired yet.
 */
export async function tellLoss(acquired: Acquired): Promise<void> {
  await Promise.resolve();
  acquired.signal.throwIfAborted();
  acquired.assertHeld();
}

function untilLost<T>(acquired: Acquired, work: () => Promise<T>): Promise<T> {
  const { signal } = acquired;
  return new Promise((resolve, reject) => {
    // The lock may have been lost between its grant and this step.
    signal.throwIfAborted();
    const onLoss = (): void => reject(signal.reason);
    signal.addEventListener("abort", onLoss, { once: true });
    work()
      .then(resolve, reject)
      .finally(() => signal.removeEventListener("abort", onLoss));
  });
}

/** Keeps a second error with the first, as a `SuppressedError` does, if the first is an object and carries none yet. */
export function carry(error: unknown, suppressed: unknown): void {
  if (typeof error !== "object" || error === null || "suppressed" in error) return;
  Reflect.defineProperty(error, "suppressed", { value: suppressed, configurable: true, writable: true });
}
