import { codeOf, isError, sentenceOf } from "./caught-error.ts";
import { brand, isOfClass } from "./error-brand.ts";
import {
  type NotAcquiredFacts,
  type NotAcquiredReason,
  notAcquiredSentence,
} from "./not-acquired-sentence.ts";
import { quote, shortened } from "./plain-text.ts";
import { conceal, show } from "./shown-value.ts";

/**
 * Base class of every error of this library. Match on `code` or with `instanceof`, which also recognises errors from another copy of
 * the library in the same process: an application may load it as an ES module, and a dependency as CommonJS.
 */
export abstract class LockerError extends Error {
  abstract readonly code: string;

  /** @internal */
  get [brand](): true {
    return true;
  }

  /** @internal */
  static override [Symbol.hasInstance](value: unknown): boolean {
    // biome-ignore lint/complexity/noThisInStatic: `this` is the class to the right of `instanceof`
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
  /** How long the call waited for the lock or for a session, in milliseconds, if it ran out of time. */
  readonly waited: number | undefined;
  /** With the reason `"id-collision"`, the key whose lock has the same id. */
  readonly otherKey: string | undefined;
  /** With the reason `"recovering"`, the milliseconds until the locker's `recoveryGrace` has passed and locks are granted again. */
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

/** The lock is no longer held. With the reason `"lost"`, `cause` says what ended it. */
export class LockNotHeldError extends LockerError {
  override readonly name = "LockNotHeldError";
  static readonly code = "LOCK_NOT_HELD";
  readonly code = LockNotHeldError.code;
  readonly key: string;
  readonly reason: NotHeldReason;

  constructor(facts: { key: string; reason: NotHeldReason; cause?: unknown }) {
    super(`Lock ${quote(facts.key)} is not held: ${notHeldSentence(facts)}`, causeOf(facts));
    this.key = facts.key;
    this.reason = facts.reason;
  }
}

function notHeldSentence({ reason, cause }: { reason: NotHeldReason; cause?: unknown }): string {
  switch (reason) {
    case "released":
      return "it has been released";
    case "expired":
      return "its TTL passed without a refresh";
    case "lost":
      return cause === undefined ? "it was lost" : `it was lost: ${sentenceOf(cause)}`;
    case "closed":
      return "its locker was closed";
  }
}

/** The reason of `lock.signal` if the lock ended without a release and before its TTL. `cause` says what ended it. */
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

/** The reason of `lock.signal` if the TTL passed without a refresh. */
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

/** The key is empty. A key has at least one character. */
export class EmptyKeyError extends LockerError {
  override readonly name = "EmptyKeyError";
  static readonly code = "EMPTY_KEY";
  readonly code = EmptyKeyError.code;

  constructor() {
    super("Expected `key` to have at least one character, got an empty string");
  }
}

/**
 * The key is neither a string of well-formed UTF-16 nor a `Uint8Array`. A lone surrogate is refused because all of them would share
 * one lock.
 */
export class InvalidKeyError extends LockerError {
  override readonly name = "InvalidKeyError";
  static readonly code = "INVALID_KEY";
  readonly code = InvalidKeyError.code;

  constructor(got: unknown) {
    super(`Expected \`key\` to be a string without lone surrogates, or a Uint8Array, got ${show(got)}`);
  }
}

/** The TTL is not a finite duration of at least a millisecond, or the server is to enforce it and can't enforce one of that length. */
export class InvalidTtlError extends LockerError {
  override readonly name = "InvalidTtlError";
  static readonly code = "INVALID_TTL";
  readonly code = InvalidTtlError.code;

  constructor(got: unknown, wants = 'a duration of at least 1 ms, such as 30000 or "30s"') {
    super(`Expected \`ttl\` to be ${wants}, got ${show(got)}`);
  }
}

/** An option is unknown, or its value can't be used. `field` names it. */
export class InvalidConfigError extends LockerError {
  override readonly name = "InvalidConfigError";
  static readonly code = "INVALID_CONFIG";
  readonly code = InvalidConfigError.code;
  readonly field: string;

  /**
   * `got`: the given value; left out if it is of the right kind, and `wants` says what is wrong with it. `secret`: it may be or contain a
   * password, so a string is not shown.
   */
  constructor(facts: { field: string; got?: unknown; wants: string; secret?: boolean; cause?: unknown }) {
    const { field, wants, got, secret } = facts;
    const shown = secret && typeof got === "string" && got !== "" ? conceal(got) : show(got);
    const end = "got" in facts ? `, got ${shown}` : "";
    super(`Expected \`${shortened(field)}\` to be ${wants}${end}`, causeOf(facts));
    this.field = field;
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

/** The locker has been closed, so it takes no more calls. */
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
  /** The SQLSTATE, such as `"57P01"`, if the server sent one. */
  readonly sqlState: string | undefined;
  /** The key of the lock that the failed operation was about, if it was about one. */
  readonly key: string | undefined;
  /** The operation that failed, such as "Taking the lock". */
  readonly doing: string;

  constructor(facts: { doing: string; key?: string | undefined; cause: unknown }) {
    const what = facts.key === undefined ? facts.doing : `${facts.doing} ${quote(facts.key)}`;
    super(`${what} failed: ${sentenceOf(facts.cause)}`, { cause: withoutSecrets(facts.cause) });
    this.sqlState = sqlStateOf(facts.cause);
    this.doing = facts.doing;
    this.key = facts.key;
  }
}

/** A connection pooler stands between this process and the server. It runs each statement on whichever session is free. */
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

/** The server says that it grants advisory locks but does not keep them, so every caller would hold every lock. */
export class LocksNotKeptError extends LockerError {
  override readonly name = "LocksNotKeptError";
  static readonly code = "LOCKS_NOT_KEPT";
  readonly code = LocksNotKeptError.code;

  constructor() {
    super(
      "The server says that it grants advisory locks but does not keep them: a second session was granted the same lock, " +
        "or the first could not find its own. Some databases that speak PostgreSQL's protocol do this. Connect the locker to PostgreSQL",
    );
  }
}

/** The server's lock table, which all databases share, is full. The lock was not taken, and no other lock was lost. */
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

/** The server is older than PostgreSQL 14, so it lacks the setting `idle_session_timeout`, which every session of a locker sets. */
export class ServerTooOldError extends LockerError {
  override readonly name = "ServerTooOldError";
  static readonly code = "SERVER_TOO_OLD";
  readonly code = ServerTooOldError.code;

  constructor(facts: { cause: unknown }) {
    super("The server is older than PostgreSQL 14, the oldest version supported", causeOf(facts));
  }
}

/** The server is a standby. Its locks exclude nobody on the primary. */
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

/** What a failed operation rejects with: a mistake in what the caller gave, such as its pool, as it is; anything else as a `DatabaseError`. */
export function databaseFailure(
  doing: string,
  cause: unknown,
  key?: string,
): InvalidConfigError | DatabaseError {
  return cause instanceof InvalidConfigError ? cause : new DatabaseError({ doing, key, cause });
}

/** A `DatabaseError` with its key set, so that its message names the lock; any other error as it is. */
export function aboutKey(error: unknown, key: string): unknown {
  if (!(error instanceof DatabaseError) || error.key !== undefined) return error;
  return new DatabaseError({ doing: error.doing, key, cause: error.cause });
}

/** The specific error class for a `DatabaseError` of an acquire, if there is one; otherwise the error itself. */
export function namedLockError(error: unknown): unknown {
  if (!(error instanceof DatabaseError)) return error;
  const { sqlState, cause } = error;
  if (sqlState === "53200") return new LockTableFullError({ cause });
  // 42704: no such setting. The newest that the locker sets is `idle_session_timeout`, of PostgreSQL 14.
  if (sqlState === "42704") return new ServerTooOldError({ cause });
  return error;
}

function causeOf(facts: { cause?: unknown }): ErrorOptions | undefined {
  return facts.cause === undefined ? undefined : { cause: facts.cause };
}

/** Removes `input` from the error for an invalid connection string: it holds the string, with its password. The code stays. */
function withoutSecrets(cause: unknown): unknown {
  if (!(isError(cause) && "input" in cause)) return cause;
  const shown = new Error(cause.message);
  return "code" in cause ? Object.assign(shown, { code: cause.code }) : shown;
}

/** The outermost SQLSTATE of an error and what it wraps: libraries keep the driver's error as its `cause`, Sequelize as `original`. */
function sqlStateOf(thrown: unknown, seen = new Set<unknown>()): string | undefined {
  if (!isError(thrown) || seen.has(thrown)) return undefined;
  const code = codeOf(thrown);
  // A SQLSTATE has five characters, one of them a digit; a code of the system, such as EPIPE or ECONNREFUSED, has none.
  if (code !== undefined && /^(?=.*\d)[0-9A-Z]{5}$/.test(code)) return code;
  seen.add(thrown);
  return sqlStateOf(thrown.cause ?? (thrown as { original?: unknown }).original, seen);
}
