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

/** What an error of a lock that was not acquired is made of. */
export interface NotAcquiredFacts {
  readonly key: string;
  readonly reason: NotAcquiredReason;
  readonly waited?: number;
  readonly otherKey?: string;
  readonly graceLeft?: number;
  /** Whether the caller has it itself: see {@link Reentrancy}. */
  readonly reentrant?: Reentrancy;
  readonly cause?: unknown;
}

/**
 * Whether the lock that a caller wants is its own: `true`, by the `withLock` around the call; `"transaction"`, by its transaction or
 * its session; `"shared"`, by a `withLock` around it that has it shared, while the call wants it alone.
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
        : `${lock}: not granted within ${facts.waited} ms, and the database was in trouble: ${sentenceOf(facts.cause)}`;
    case "pool-saturated":
      return `${lock}: every connection of the pool is checked out, and none came back within ${facts.waited} ms`;
    case "connection-timeout":
      return `${lock}: the server did not answer within ${facts.waited} ms`;
    case "id-collision":
      return `${lock}: its id is also that of ${quote(facts.otherKey ?? "")}, which this locker holds; rename one of the two keys`;
    case "recovering":
      return `${lock}: the server's locks began anew, by a restart, a crash or a failover, and by \`recoveryGrace\` nobody is granted one for another ${formatDuration(Math.ceil(facts.graceLeft ?? 0))}`;
  }
}

function heldSentence(reentrant: Reentrancy): string {
  switch (reentrant) {
    case false:
      return "it is held elsewhere";
    case "transaction":
      return "this very transaction, or its session, has it already, and a lock is not re-entrant";
    case "shared":
      return "the `withLock` around this call holds it shared, and a shared lock does not become an exclusive one";
    default:
      return "the `withLock` around this call holds it, and a lock is not re-entrant, unless `reentrant: true` says so";
  }
}
