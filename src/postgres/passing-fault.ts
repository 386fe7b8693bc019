import { codeOf, isAggregateError, isError } from "../contract/caught-error.ts";
import {
  CircuitOpenError,
  DatabaseError,
  LockerError,
  LockNotAcquiredError,
  StandbyError,
} from "../contract/errors.ts";

/**
 * SQLSTATEs of faults that pass by themselves (https://www.postgresql.org/docs/current/errcodes-appendix.html): the connection failed
 * (class 08); the server has run out of something (53, except for the lock table, which has an error class of its own); it shuts down,
 * starts or restarts (57P); somebody cancelled the statement (57014); the database accepts no connections for now, or is still
 * recovering (55000); the session timed out (25P).
 */
const passingStates = /^(08...|53[013]..|55000|57014|57P0[1-35]|25P0[2-4])$/;

const passingReasons: ReadonlySet<string> = new Set(["pool-saturated", "connection-timeout", "recovering"]);

/** Codes of the system and of Node.js for a connection that could not be opened or that broke. */
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

/** Codes for a host or a socket that does not exist, and that may exist again after a failover. */
const absentCodes: ReadonlySet<string> = new Set(["ENOTFOUND", "ENOENT"]);

/**
 * Whether a fault may pass if the caller waits, such as a restart, a failover or a full pool. A wrong password, a missing database or
 * permission, a pooler and a bad option don't pass.
 *
 * @param hasConnected whether this locker has reached its primary before. If so, a host that doesn't exist, or a standby in place of the
 *   primary, means a failover; otherwise, a configuration mistake
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
  if (isAggregateError(cause)) {
    return cause.errors.length > 0 && cause.errors.every((each) => isPassingCause(each, hasConnected));
  }
  if (!isError(cause)) return false;
  const code = codeOf(cause);
  if (code !== undefined && code !== "") {
    return passingStates.test(code) || passingCodes.has(code) || (hasConnected && absentCodes.has(code));
  }
  // An error of the driver without a code means that the connection broke or no answer came. The exceptions are a TypeError, which is
  // the caller's mistake, and three refusals that have no code either and can only be told by their text. The last is that of a pool that
  // has been ended, which never comes back.
  return !(
    cause instanceof TypeError ||
    cause instanceof RangeError ||
    cause instanceof LockerError ||
    /^SASL|\bSSL\b|after calling end on the pool/.test(cause.message)
  );
}
