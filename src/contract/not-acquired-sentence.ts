import { sentenceOf } from "./caught-error.ts";
import { formatDuration } from "./duration.ts";
import { quote } from "./shown-value.ts";

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
  /** Whether the caller itself holds the lock: see {@link Reentrancy}. */
  readonly reentrant?: Reentrancy;
  readonly cause?: unknown;
}

/**
 * Whether the caller itself holds the lock that it asks for. `true`: the `withLock` around the call holds it. `"transaction"`: its
 * transaction or its session does. `"shared"`: the `withLock` around the call holds it shared, and the call asks for it exclusively.
 */
export type Reentrancy = boolean | "transaction" | "shared";

export function notAcquiredSentence(facts: NotAcquiredFacts): string {
  const lock = `Lock ${quote(facts.key)} not acquired`;
  switch (facts.reason) {
    case "held":
      return `${lock}: ${heldSentence(facts.reentrant ?? false)}`;
    case "wait-timeout":
      if (facts.reentrant === true) {
        return `${lock}: still held after ${facts.waited} ms, by the \`withLock\` around this call; a lock is not re-entrant, unless \`reentrant: true\` says so`;
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

function heldSentence(reentrant: Reentrancy): string {
  switch (reentrant) {
    case false:
      return "it is held elsewhere";
    case "transaction":
      return "this transaction, or its session, already holds it, and a lock is not re-entrant";
    case "shared":
      return "the `withLock` around this call holds it shared, and a shared lock does not become an exclusive one";
    default:
      return "the `withLock` around this call holds it, and a lock is not re-entrant, unless `reentrant: true` says so";
  }
}
