import { codeOf, sentenceOf } from "./caught-error.ts";
import { brand, isOfClass } from "./error-brand.ts";
import {
  type NotAcquiredFacts,
  type NotAcquiredReason,
  notAcquiredSentence,
} from "./not-acquired-sentence.ts";
import { conceal, quote, show } from "./shown-value.ts";

/**
 * Base of every error that this library makes. Match on `code`, or with `instanceof`, which knows the errors of another copy of
 * the library in the same process, too: an application may have it as an ES module and a dependency as CommonJS.
 */
export abstract class LockerError extends Error {
  abstract readonly code: string;

  /** @internal */
  get [brand](): true {
    return true;
  }

  /** @internal */
  static override [Symbol.hasInstance](value: unknown): boolean {
    // biome-ignore lint/complexity/noThisInStatic: it is the class that stands at the right of `instanceof`
    return isOfClass(this, LockerError, value);
  }
}

/** The lock was not taken, and nothing is held. */
export class LockNotAcquiredError extends LockerError {
  override readonly name = "LockNotAcquiredError";
  static readonly code = "LOCK_NOT_ACQUIRED";
  readonly code = LockNotAcquiredError.code;
  readonly key: string;
  readonly reason: NotAcquiredReason;
  /** How long the call waited for the lock or for a session, in milliseconds, if the reason is that time. */
  readonly waited: number | undefined;
  /** With `"id-collision"`, the key whose lock has the same id. */
  readonly otherKey: string | undefined;
  /** With `"recovering"`, the milliseconds until the locker's `recoveryGrace` has passed, and locks are granted again. */
  readonly graceLeft: number | undefined;

  constructor(facts: NotAcquiredFacts) {
    super(notAcquiredSentence(facts), causeOf(facts));
    this.key = facts.key;
    this.reason = facts.reason;
    this.waited = facts.waited;
    this.otherKey = facts.otherKey;
    this.graceLeft = facts.graceLeft;
  }
}

export type NotHeldReason = "released" | "expired" | "lost" | "closed";

/** The lock was no longer held, and is not now. With `reason: "lost"`, `cause` says what ended it. */
export class LockNotHeldError extends LockerError {
  override readonly name = "LockNotHeldError";
  static readonly code = "LOCK_NOT_HELD";
  readonly code = LockNotHeldError.code;
  readonly key: string;
  readonly reason: NotHeldReason;

  constructor(facts: { key: string; reason: NotHeldReason; cause?: unknown }) {
    super(`Lock ${quote(facts.key)} is not held: ${notHeldSentence[facts.reason]}`, causeOf(facts));
    this.key = facts.key;
    this.reason = facts.reason;
  }
}

const notHeldSentence: Record<NotHeldReason, string> = {
  released: "it has been released",
  expired: "its TTL passed without a refresh",
  lost: "its session ended, or could not be proved to live",
  closed: "its locker was closed",
};

/** What `lock.signal` aborts with when holding ended without a release. `cause` says what ended it. */
export class LockLostError extends LockerError {
  override readonly name = "LockLostError";
  static readonly code = "LOCK_LOST";
  readonly code = LockLostError.code;
  readonly key: string;

  constructor(facts: { key: string; cause: unknown }) {
    super(`Lock ${quote(facts.key)} was lost: ${sentenceOf(facts.cause)}`, causeOf(facts));
    this.key = facts.key;
  }
}

/** What `lock.signal` aborts with when the TTL passed without a refresh. */
export class LockExpiredError extends LockerError {
  override readonly name = "LockExpiredError";
  static readonly code = "LOCK_EXPIRED";
  readonly code = LockExpiredError.code;
  readonly key: string;
  /** Milliseconds. */
  readonly ttl: number;

  constructor(facts: { key: string; ttl: number }) {
    super(`Lock ${quote(facts.key)} expired: it was not refreshed within ${facts.ttl} ms`);
    this.key = facts.key;
    this.ttl = facts.ttl;
  }
}

/** A key has at least one character. */
export class EmptyKeyError extends LockerError {
  override readonly name = "EmptyKeyError";
  static readonly code = "EMPTY_KEY";
  readonly code = EmptyKeyError.code;

  constructor() {
    super("Expected `key` to have at least one character, got an empty string");
  }
}

/** A key is a string of well-formed UTF-16, because a lone surrogate would share its lock with every other one; or it is bytes. */
export class InvalidKeyError extends LockerError {
  override readonly name = "InvalidKeyError";
  static readonly code = "INVALID_KEY";
  readonly code = InvalidKeyError.code;

  constructor(got: unknown) {
    super(`Expected \`key\` to be a string without lone surrogates, or a Uint8Array, got ${show(got)}`);
  }
}

/** A TTL is a positive, finite duration, and one that the server can enforce if it is to. */
export class InvalidTtlError extends LockerError {
  override readonly name = "InvalidTtlError";
  static readonly code = "INVALID_TTL";
  readonly code = InvalidTtlError.code;

  constructor(got: unknown, wants = 'a positive duration such as 30000 or "30s"') {
    super(`Expected \`ttl\` to be ${wants}, got ${show(got)}`);
  }
}

/** An option that can't be used. */
export class InvalidConfigError extends LockerError {
  override readonly name = "InvalidConfigError";
  static readonly code = "INVALID_CONFIG";
  readonly code = InvalidConfigError.code;
  readonly field: string;

  /** `secret`: what was given may be a password or hold one, so that a string is not shown. */
  constructor(facts: { field: string; got: unknown; wants: string; secret?: boolean; cause?: unknown }) {
    const got =
      facts.secret && typeof facts.got === "string" && facts.got !== ""
        ? conceal(facts.got)
        : show(facts.got);
    super(`Expected \`${facts.field}\` to be ${facts.wants}, got ${got}`, causeOf(facts));
    this.field = facts.field;
  }
}

/** The circuit breaker refused to let the operation reach the database. `cause` is the breaker's own error. */
export class CircuitOpenError extends LockerError {
  override readonly name = "CircuitOpenError";
  static readonly code = "CIRCUIT_OPEN";
  readonly code = CircuitOpenError.code;

  constructor(facts: { cause: unknown }) {
    super(`The circuit breaker refused: ${sentenceOf(facts.cause)}`, causeOf(facts));
  }
}

/** The locker has been closed. */
export class LockerClosedError extends LockerError {
  override readonly name = "LockerClosedError";
  static readonly code = "LOCKER_CLOSED";
  readonly code = LockerClosedError.code;

  constructor() {
    super("The locker is closed");
  }
}

/** PostgreSQL or the driver failed. `cause` is the driver's own error. */
export class DatabaseError extends LockerError {
  override readonly name = "DatabaseError";
  static readonly code = "DATABASE_ERROR";
  readonly code = DatabaseError.code;
  /** PostgreSQL's code, such as `"57P01"`, if the server said one. */
  readonly sqlState: string | undefined;
  /** The key of the lock that it was about, if it was about one. */
  readonly key: string | undefined;
  /** What failed: "Taking the lock", say. */
  readonly doing: string;

  constructor(facts: { doing: string; key?: string | undefined; cause: unknown }) {
    const what = facts.key === undefined ? facts.doing : `${facts.doing} ${quote(facts.key)}`;
    super(`${what} failed: ${sentenceOf(facts.cause)}`, { cause: withoutSecrets(facts.cause) });
    this.sqlState = sqlStateOf(facts.cause);
    this.doing = facts.doing;
    this.key = facts.key;
  }
}

/** Between this process and the server stands a pooler, which gives a statement whichever session is free. */
export class PoolerDetectedError extends LockerError {
  override readonly name = "PoolerDetectedError";
  static readonly code = "POOLER_DETECTED";
  readonly code = PoolerDetectedError.code;

  constructor(facts: { announced: number; actual: number }) {
    super(
      `The session announced backend ${facts.announced} but is served by ${facts.actual}: a connection pooler stands ` +
        "between, which would let two callers hold one lock. Connect the locker to the server's own port, or, if the " +
        'pooler keeps one session for each client (session mode), say so with `pooler: "session"`',
    );
  }
}

/** The server says that it grants advisory locks, and keeps none: everybody would hold every lock. */
export class LocksNotKeptError extends LockerError {
  override readonly name = "LocksNotKeptError";
  static readonly code = "LOCKS_NOT_KEPT";
  readonly code = LocksNotKeptError.code;

  constructor() {
    super(
      "The server answers that advisory locks are granted, but does not keep them: a second session was granted the same one, " +
        "or the first found nothing of it. Some databases that speak PostgreSQL's protocol do so. Connect the locker to a PostgreSQL",
    );
  }
}

/** The server's table of locks is full, for every session of every database. The lock was not taken, and none was lost. */
export class LockTableFullError extends LockerError {
  override readonly name = "LockTableFullError";
  static readonly code = "LOCK_TABLE_FULL";
  readonly code = LockTableFullError.code;

  constructor(facts: { cause: unknown }) {
    super(
      "The server has no room for another lock (53200, out of shared memory). Hold fewer at once, or raise " +
        "`max_locks_per_transaction` on the server, which takes a restart",
      causeOf(facts),
    );
  }
}

/** The server is older than PostgreSQL 14, which has no time-out for idle sessions: neither to set one, nor to be safe of one. */
export class ServerTooOldError extends LockerError {
  override readonly name = "ServerTooOldError";
  static readonly code = "SERVER_TOO_OLD";
  readonly code = ServerTooOldError.code;

  constructor(facts: { cause: unknown }) {
    super("The server is older than PostgreSQL 14, which is the oldest that is supported", causeOf(facts));
  }
}

/** The server is a standby: its locks exclude nobody on the primary. */
export class StandbyError extends LockerError {
  override readonly name = "StandbyError";
  static readonly code = "STANDBY";
  readonly code = StandbyError.code;

  constructor() {
    super(
      "The server is a standby, whose locks exclude nobody on the primary. Connect the locker to the primary",
    );
  }
}

/** The error of something that was done for the lock of a key: its sentence names that. */
export function aboutKey(error: unknown, key: string): unknown {
  if (!(error instanceof DatabaseError) || error.key !== undefined) return error;
  return new DatabaseError({ doing: error.doing, key, cause: error.cause });
}

/** The error by its own name, if acquiring a lock has one for it. */
export function namedLockError(error: unknown): unknown {
  if (!(error instanceof DatabaseError)) return error;
  const { sqlState, cause } = error;
  if (sqlState === "53200") return new LockTableFullError({ cause });
  // 42704: no such setting. Of those that are asked for, `idle_session_timeout` is the youngest, of 14.
  if (sqlState === "42704") return new ServerTooOldError({ cause });
  return error;
}

function causeOf(facts: { cause?: unknown }): ErrorOptions | undefined {
  return facts.cause === undefined ? undefined : { cause: facts.cause };
}

/** The error for a connection string that can't be read carries that string, with its password, as `input`. */
function withoutSecrets(cause: unknown): unknown {
  return cause instanceof Error && "input" in cause ? new Error(cause.message) : cause;
}

function sqlStateOf(cause: unknown): string | undefined {
  const code = codeOf(cause);
  // Node's own codes (ECONNREFUSED) are longer.
  return code !== undefined && /^[0-9A-Z]{5}$/.test(code) ? code : undefined;
}
