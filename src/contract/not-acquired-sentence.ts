import { sentenceOf } from "./caught-error.ts";
import { formatDuration } from "./duration.ts";
import type { LockMode } from "./locker.ts";
import { quote } from "./plain-text.ts";

export type NotAcquiredReason =
  | "held"
  | "wait-timeout"
  | "pool-saturated"
  | "connection-timeout"
  | "id-collision"
  | "recovering";

/** What a `LockNotAcquiredError` is made of. */
export interface NotAcquiredFacts {
  readonly key: string;
  readonly reason: NotAcquiredReason;
  /** In which mode the lock was asked for. Default `"exclusive"`. */
  readonly mode?: LockMode;
  readonly waited?: number;
  readonly otherKey?: string;
  readonly graceLeft?: number;
  /** How the caller itself, or its locker, keeps the lock from the call. `undefined`: somebody else does, as far as is known. */
  readonly ownHold?: OwnHold | undefined;
  /** The number of permits, if a permit of a semaphore was asked for. */
  readonly permits?: number;
  readonly cause?: unknown;
}

/** What runs a function under a lock. */
export type LockScope =
  | "withLock"
  | "tryWithLock"
  | "withLocks"
  | "withPermit"
  | "onElected"
  | "withTransaction";

/** How the caller itself, or its locker, keeps a lock from a call. */
export interface OwnHold {
  /**
   * What does: the function around the call; `"client"`, the session of its option `client`, or that session's transaction; `"locker"`,
   * another call of the same locker; `"holdAtLeast"`, that option of a call whose lock has been released; `"line"`, callers of the same
   * locker that wait for the lock and are served first.
   */
  readonly by: LockScope | "client" | "locker" | "holdAtLeast" | "line";
  /** Whether it is held shared by the function around the call, which asks for it exclusively. */
  readonly isShared?: boolean;
  /** Whether a caller that waits for it exclusively comes first: the function around the call holds it shared, and so would the call. */
  readonly isBehindWriter?: boolean;
  /** Whether another call inside that function has its turn. */
  readonly isSibling?: boolean;
  /** Whether that function has ended or lost the lock while the call waited for its turn. */
  readonly isOver?: boolean;
  /** Whether the call could share it, with the option `reentrant`. */
  readonly canShare?: boolean;
  /** Whether the TTL of the lock has passed, so that its holder relies on it no longer. */
  readonly isExpired?: boolean;
  /** With `"holdAtLeast"`, when the lock becomes free; of a semaphore's permits, the first of those that this locker keeps. */
  readonly until?: Date;
}

export function notAcquiredSentence(facts: NotAcquiredFacts): string {
  const { key, permits, ownHold } = facts;
  const lock = `${permits === undefined ? "Lock" : "Permit of"} ${quote(key)} not acquired`;
  switch (facts.reason) {
    case "held":
      return `${lock}: ${heldSentence(facts)}`;
    case "wait-timeout":
      if (ownHold !== undefined && permits === undefined)
        return `${lock}: still held after ${facts.waited} ms: ${heldSentence(facts)}`;
      if (facts.cause !== undefined) {
        return `${lock}: not granted within ${facts.waited} ms, and the database was failing: ${sentenceOf(facts.cause)}`;
      }
      return permits === undefined && facts.mode !== "shared"
        ? `${lock}: still held elsewhere after ${facts.waited} ms`
        : `${lock}: not granted within ${facts.waited} ms: ${heldSentence(facts)}`;
    case "pool-saturated":
      return `${lock}: every connection of the pool is checked out, and none came back within ${facts.waited} ms`;
    case "connection-timeout":
      return `${lock}: the server did not answer within ${facts.waited} ms`;
    case "id-collision":
      return `${lock}: its id is also that of ${quote(facts.otherKey ?? "")}, which this locker holds; rename one of the two keys`;
    case "recovering":
      return `${lock}: the server's lock table is new since a restart, a crash or a failover, and \`recoveryGrace\` lets nobody acquire a lock for another ${formatDuration(Math.ceil(facts.graceLeft ?? 0))}`;
  }
}

function heldSentence({ ownHold: own, permits, mode }: NotAcquiredFacts): string {
  const all = `all ${permits} permits are held, or others wait for one`;
  if (own === undefined) {
    // The server refuses a reader also because of a writer that waits.
    if (mode === "shared") return "a writer elsewhere holds it, or waits for it";
    if (permits === undefined) return "it is held elsewhere";
    return permits === 1 ? "the only permit is held, or others wait for it" : all;
  }
  switch (own.by) {
    case "client":
      return `the session of its \`client\`, or that session's transaction, already holds it, and ${notReentrant(own)}`;
    case "locker":
      return own.isExpired
        ? "another call of this locker has not released it, although its TTL has passed"
        : "another call of this locker holds it";
    case "holdAtLeast": {
      const only = permits === 1 ? "the only permit has been released" : `${all}; one has been released`;
      const released = permits === undefined ? "its holder has released it" : only;
      return `${released}, and \`holdAtLeast\` keeps it until ${own.until?.toISOString()}`;
    }
    case "line":
      return "other calls of this locker wait for it, and are served first";
    case "withPermit":
      return "the functions of `withPermit` around this call hold all the permits";
    default:
      return heldAround(own);
  }
}

function heldAround(own: OwnHold): string {
  const around = `the \`${own.by}\` around this call`;
  if (own.isOver) return `${around} no longer holds the lock that this call was to share`;
  if (own.isSibling) return `another call inside ${around} has it, and such calls exclude each other`;
  if (own.isShared) return `${around} holds it shared, and a shared lock does not become an exclusive one`;
  if (own.isBehindWriter) {
    const end = own.canShare ? "; with `reentrant: true`, the call would share that lock" : "";
    return `${around} holds it shared, and a waiting writer is served first${end}`;
  }
  return `${around} holds it, and ${notReentrant(own)}`;
}

function notReentrant({ canShare }: OwnHold): string {
  return canShare ? "a lock is not re-entrant, unless `reentrant: true` says so" : "a lock is not re-entrant";
}
