import type { TransactionClient } from "../contract/clients.ts";
import { DatabaseError, namedLockError } from "../contract/errors.ts";
import { deadlockDetected } from "../postgres/sql-transaction.ts";
import { abandonOnAbort, pauseFor, Stop, type StopSignal } from "../runtime/stop-signal.ts";

/** A lock that ends with the transaction that it was taken in. */
export interface TransactionLock {
  readonly client: TransactionClient;
  /** Whether its end will be noticed, by its locker, and has not been yet. */
  readonly isOpen: boolean;
  /** Aborts when its TTL has passed, before the server ends the transaction for that; or when the server has. */
  readonly lost: Stop;
  /**
   * Nobody gives the lock up any more before `fn` has ended: to be called before that begins. Until then, {@link release} leaves
   * nothing of the lock, in a transaction of the caller's, too.
   *
   * @throws {DatabaseError}
   */
  keep(): Promise<void>;
  /**
   * What the caller wrote is kept, or will be when the caller commits; and the lock was held until now.
   *
   * @throws {DatabaseError} it was not, or the commit failed @throws {LockExpiredError} @throws {LockLostError}
   */
  commit(): Promise<void>;
  /** Nothing of it is kept; or, in a transaction of the caller's, that is the caller's to say. */
  release(): Promise<void>;
}

/** How long a transaction may be idle, in milliseconds, until the server ends it; `undefined`: for ever. */
export interface TransactionTtl {
  readonly ttl?: number | undefined;
}

/** The TTLs of the locks of a client's transaction, while their functions run. */
const ttls = new WeakMap<object, number[]>();

/** The TTL to set: one within another doesn't outlive it. */
export function ttlWithin(client: object, ttl: number): number {
  return Math.min(ttl, ...(ttls.get(client) ?? []));
}

/** Has a TTL be counted by {@link ttlWithin}. @returns what ends that */
export function countTtl(client: object, ttl: number): () => void {
  const all = ttls.get(client) ?? [];
  ttls.set(client, all);
  all.push(ttl);
  return () => void all.splice(all.indexOf(ttl), 1);
}

/** A wait in the server. */
export interface TransactionWait extends TransactionTtl {
  /** Milliseconds that the server is asked to wait. */
  readonly bound: number;
  /** Ends the wait, by a cancellation in the server. */
  readonly signal: StopSignal;
}

export const takingTheLock = "Taking the lock";
export const waitingForTheLock = "Waiting for the lock";

/** What failed, and for which lock. A deadlock by its name: the server says so in its own language. */
export function aboutLock(error: unknown, key: string): unknown {
  if (!(error instanceof DatabaseError)) return error;
  const { sqlState, cause } = error;
  const isDeadlock = error.doing === waitingForTheLock && sqlState === deadlockDetected;
  const doing = isDeadlock ? "A deadlock with another transaction: waiting for the lock" : error.doing;
  return namedLockError(new DatabaseError({ doing, key, cause }));
}

/** The setting for a bound. 0 would be none at all. */
export function lockTimeout(bound: number): string {
  return Math.max(Math.ceil(bound), 1).toString();
}

/**
 * Milliseconds after which a wait is cancelled again, at first and at most: it may not have begun when the first cancellation
 * came.
 */
const pauses = { first: 20, longest: 500 };

/**
 * Waits for the answer of a statement that waits in the server. On an abort has it cancelled, over and over, for a cancellation
 * that comes before the statement does nothing; and settles when the statement has its answer and no cancellation is under way
 * any more, so that none hits the next statement.
 */
export async function untilAnswered<T>(
  statement: Promise<T>,
  signal: StopSignal,
  cancel: () => Promise<void>,
): Promise<T> {
  const answered = new Stop();
  const settled = statement.then(
    () => answered.abort(undefined),
    () => answered.abort(undefined),
  );
  const cancelUntilAnswered = async (): Promise<void> => {
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
  return statement;
}
