import type { AbortSignalLike, LockMode } from "./locker.ts";

/** What is known of the lock of a key at one moment, as `locker.inspect` returns it. */
export interface LockInspection {
  /** As `lock.key` has it. */
  readonly key: string;
  readonly id: bigint;
  /**
   * Whether anybody has the lock, in whichever mode: any process, any language, this locker too. A lock whose TTL has passed counts for
   * as long as the server keeps it.
   */
  readonly held: boolean;
  /** Whether one of them is this very locker. */
  readonly heldHere: boolean;
  /** More than one if it is shared. */
  readonly holders: readonly LockHolder[];
  /**
   * The sessions that wait for it inside the server, in no order. Of a locker's callers the first waits there, for the others, too; and
   * with a `MemoryLocker`, nobody does.
   */
  readonly waiters: readonly LockWaiter[];
  /** How many callers of this very locker wait for it, the one that waits inside the server among them. */
  readonly waitingHere: number;
}

/** A session that has a lock, or waits for it, as far as the server shows it to this role. */
export interface InspectedSession {
  readonly mode: LockMode;
  /** The backend of the session. `undefined` for a prepared transaction, and in memory. */
  readonly pid: number | undefined;
  /** The address of its client; `"local"` over a Unix socket. */
  readonly host: string | undefined;
  /** `application_name`: `"pg-locker 7 (shared)"` for a locker of namespace 7. */
  readonly applicationName: string | undefined;
  readonly user: string | undefined;
  /** When the session was opened, by the server's clock: it has had the lock for no longer than that. */
  readonly sessionSince: Date | undefined;
}

export interface LockHolder extends InspectedSession {
  /** Whether it is a lock of this very locker, as far as is known: behind a pooler, that of a `withTransaction` isn't. */
  readonly own: boolean;
  /** When it was granted, by this machine's clock. Only of a lock of this locker: PostgreSQL doesn't keep it. */
  readonly since: Date | undefined;
  /** Only of a lock of this locker that has one. */
  readonly fencingToken: bigint | undefined;
  /** The name (gid) of the prepared transaction that has the lock, if no session has it. */
  readonly preparedTransaction: string | undefined;
}

export interface LockWaiter extends InspectedSession {
  /** Since when it has waited inside the server, by the server's clock. A locker's wait begins anew every 5 s. */
  readonly since: Date | undefined;
}

export interface InspectOptions {
  /** Ends the look when it aborts; the call then rejects with the signal's own `reason`. */
  readonly signal?: AbortSignalLike;
}
