import { codeOf } from "../contract/caught-error.ts";
import {
  CircuitOpenError,
  DatabaseError,
  LockerError,
  LockNotAcquiredError,
  StandbyError,
} from "../contract/errors.ts";

/**
 * SQLSTATEs of what ends by itself (https://www.postgresql.org/docs/current/errcodes-appendix.html): the connection failed (class
 * 08), the server is out of something (53, except for the lock table, which is an error of its own) or shuts down, starts or
 * restarts (57P), somebody cancelled the statement (57014), the database takes no connections for now, or is still recovering (55000), or the session timed out (25P).
 */
const passingStates = /^(08...|53[013]..|55000|57014|57P0[1-35]|25P0[2-4])$/;

const passingReasons: ReadonlySet<string> = new Set(["pool-saturated", "connection-timeout", "recovering"]);

/** Codes of the system, and of Node.js, of a connection that could not be made, or that broke. */
const passingCodes: ReadonlySet<string> = new Set([
  "ECONNREFUSED",
  "ECONNRESET",
  "ECONNABORTED",
  "EPIPE",
  "ETIMEDOUT",
  "EHOSTUNREACH",
  "EHOSTDOWN",
  "ENETUNREACH",
  "ENETDOWN",
  "ENETRESET",
  "EAI_AGAIN",
  "EADDRNOTAVAIL",
  "ENOBUFS",
  "EMFILE",
  "ENFILE",
  "ERR_STREAM_DESTROYED",
  "ERR_STREAM_WRITE_AFTER_END",
  "ERR_SOCKET_CLOSED",
]);

/** Codes for a host or a socket that is not there, which a failover may bring back. */
const absentCodes: ReadonlySet<string> = new Set(["ENOTFOUND", "ENOENT"]);

/**
 * Whether waiting can mend a fault: a restart, a failover, a full pool. A wrong password, a missing database or permission, a
 * pooler and a bad option stay as they are.
 *
 * @param hasConnected whether this locker has reached its primary before: a host that isn't there, or a standby in its place, is a
 *   failover then, and a mistake otherwise
 */
export function isPassing(error: unknown, hasConnected: boolean): boolean {
  if (error instanceof LockNotAcquiredError) {
    return passingReasons.has(error.reason);
  }
  if (error instanceof StandbyError) return hasConnected;
  if (error instanceof CircuitOpenError) return true;
  return error instanceof DatabaseError && isPassingCause(error.cause, hasConnected);
}

function isPassingCause(cause: unknown, hasConnected: boolean): boolean {
  if (cause instanceof AggregateError) {
    return cause.errors.length > 0 && cause.errors.every((each) => isPassingCause(each, hasConnected));
  }
  if (!(cause instanceof Error)) return false;
  const code = codeOf(cause);
  if (code !== undefined && code !== "") {
    return passingStates.test(code) || passingCodes.has(code) || (hasConnected && absentCodes.has(code));
  }
  // Without a code, the driver says that the connection broke or that no answer came. A mistake of its caller's is a TypeError, or
  // one of two refusals that have no code either, so that there is nothing but their text to go by.
  return !(
    cause instanceof TypeError ||
    cause instanceof RangeError ||
    cause instanceof LockerError ||
    /^SASL|\bSSL\b/.test(cause.message)
  );
}
