import type { AbortSignalLike, LockMode } from "./locker.ts";

/** The state of the lock of a key at one moment, as `locker.inspect` returns it. */
export interface LockInspection {
  /** The key, shown as in `lock.key`. */
  readonly key: string;
  readonly id: bigint;
  /**
   * Whether anybody holds the lock, in either mode: any process, in any language, or this locker. An expired lock counts as held
   * for as long as the server keeps it.
   */
  readonly held: boolean;
  /** Whether this locker holds the lock. */
  readonly heldHere: boolean;
  /** The holders of the lock: several only if it is held in shared mode. */
  readonly holders: readonly LockHolder[];
  /**
   * The sessions that wait for the lock inside the server, in no particular order. Of all callers of one locker, only the first waits
   * there, on behalf of the others. Empty with a `MemoryLocker`.
   */
  readonly waiters: readonly LockWaiter[];
  /** How many callers of this locker wait for the lock, including the one that waits inside the server. */
  readonly waitingHere: number;
}

/** A session that holds a lock or waits for it, as far as the server shows it to this role. */
export interface InspectedSession {
  readonly mode: LockMode;
  /** The process id of the session's backend. `undefined` for a prepared transaction, and with a `MemoryLocker`. */
  readonly pid: number | undefined;
  /** The address of the session's client; `"local"` over a Unix socket. */
  readonly host: string | undefined;
  /** The session's `application_name`: `"pg-locker 7 (shared)"` for a locker of namespace 7. */
  readonly applicationName: string | undefined;
  readonly user: string | undefined;
  /** When the session was opened, by the server's clock: the session can't have held the lock for longer. */
  readonly sessionSince: Date | undefined;
}

export interface LockHolder extends InspectedSession {
  /** Whether the holder is this locker, as far as it can tell: behind a pooler, the lock of a `withTransaction` is not recognised. */
  readonly own: boolean;
  /** When the lock was granted, by this machine's clock. Only for a lock of this locker, because PostgreSQL doesn't record it. */
  readonly since: Date | undefined;
  /**
   * When the lock becomes free, by this machine's clock, if its holder has released it and the option `holdAtLeast` keeps it. Only for a lock
   * of this locker. `undefined` if anybody still relies on the lock.
   */
  readonly keptUntil: Date | undefined;
  /** The fencing token. Only for a lock of this locker that was acquired with `fencing`. */
  readonly fencingToken: bigint | undefined;
  /** The name (gid) of the prepared transaction that holds the lock, if no session does. */
  readonly preparedTransaction: string | undefined;
}

export interface LockWaiter extends InspectedSession {
  /** Since when the session has waited inside the server, by the server's clock. A locker starts its wait anew every 5 s. */
  readonly since: Date | undefined;
}

export interface InspectOptions {
  /**
   * Ends the call when it aborts: the call then rejects with the signal's own `reason`.
   *
   * @default none
   * @example
   * await locker.inspect("invoice:42", { signal: AbortSignal.timeout(1_000) });
   */
  readonly signal?: AbortSignalLike;
}
