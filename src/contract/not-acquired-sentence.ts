import { sentenceOf } from "./caught-error.ts";
import { formatDuration } from "./duration.ts";
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
  readonly waited?: number;
  readonly otherKey?: string;
  readonly graceLeft?: number;
  /** How the caller itself holds the lock, if it does. */
  readonly ownHold?: OwnHold | undefined;
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

/** How the caller itself holds the lock that it asks for. */
export interface OwnHold {
  /** What is around the call and holds the lock. `"client"`: the session of its option `client` does, or that session's transaction. */
  readonly by: LockScope | "client";
  /** Whether it is held shared, while the call asks for it exclusively. */
  readonly isShared?: boolean;
  /** Whether the call could share it, with the option `reentrant`. */
  readonly canShare?: boolean;
}

export function notAcquiredSentence(facts: NotAcquiredFacts): string {
  const lock = `Lock ${quote(facts.key)} not acquired`;
  switch (facts.reason) {
    case "held":
      return `${lock}: ${facts.ownHold === undefined ? "it is held elsewhere" : ownHoldSentence(facts.ownHold)}`;
    case "wait-timeout":
      if (facts.ownHold !== undefined) {
        const { by } = facts.ownHold;
        return `${lock}: still held after ${facts.waited} ms, by the \`${by}\` around this call; ${notReentrant(facts.ownHold)}`;
      }
      return facts.cause === undefined
        ? `${lock}: still held elsewhere after ${facts.waited} ms`
        : `${lock}: not granted within ${facts.waited} ms, and the database was failing: ${sentenceOf(facts.cause)}`;
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

function ownHoldSentence(own: OwnHold): string {
  switch (own.by) {
    case "client":
      return `the session of its \`client\`, or that session's transaction, already holds it, and ${notReentrant(own)}`;
    case "withPermit":
      return "the functions of `withPermit` around this call hold all the permits";
    default:
      return own.isShared
        ? `the \`${own.by}\` around this call holds it shared, and a shared lock does not become an exclusive one`
        : `the \`${own.by}\` around this call holds it, and ${notReentrant(own)}`;
  }
}

function notReentrant({ canShare }: OwnHold): string {
  return canShare ? "a lock is not re-entrant, unless `reentrant: true` says so" : "a lock is not re-entrant";
}
