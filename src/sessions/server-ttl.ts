import { shortestTtl } from "../contract/acquire-options.ts";
import { milliseconds } from "../contract/duration.ts";
import { InvalidTtlError } from "../contract/errors.ts";

// If the server enforces a TTL, the TTL is the `idle_session_timeout` of the holder's session: the server ends the session when its
// client has sent nothing for that long
// (https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-IDLE-SESSION-TIMEOUT).

/** The largest value of the setting, in milliseconds. The smallest is 1; 0 means no time-out. */
const longest = 2 ** 31 - 1;

/** Checks a TTL that the server is to enforce. @returns milliseconds @throws {InvalidTtlError} */
export function assertEnforceableTtl(got: unknown): number {
  const ttl = milliseconds(got);
  if (ttl === undefined || !(ttl >= shortestTtl && ttl <= longest)) {
    throw new InvalidTtlError(
      got,
      `a duration from ${shortestTtl} ms to ${longest} ms, which the server can enforce`,
    );
  }
  return ttl;
}

/** The `idle_session_timeout` for a TTL. Rounded up, because the server must not end a session while its holder still relies on the lock. */
export function sessionTimeout(ttl: number): string {
  return Math.ceil(ttl).toString();
}

/**
 * The TCP settings that end a session whose link dies while it is not idle: `tcp_keepalives_idle` and `_interval` in seconds, such that
 * three unanswered probes take about a TTL, and `tcp_user_timeout` in milliseconds. They have no effect on a Unix socket.
 */
export function tcpTimeouts(ttl: number): [keepalive: string, userTimeout: string] {
  // Linux accepts at most 32767 s.
  const keepalive = Math.min(Math.max(Math.ceil(ttl / 4_000), 1), 32_767);
  return [keepalive.toString(), Math.ceil(ttl).toString()];
}

/**
 * The class of a TTL that the server enforces. Only locks of one class share a session; their TTLs are within a factor of four. The
 * smallest TTL on a session limits how long the session may be silent, so if the process stalls, a short TTL would end long ones too.
 */
export function ttlClassOf(ttl: number): number {
  return Math.floor(Math.log2(ttl) / 2);
}

/** The smallest TTL of a class, in milliseconds. */
export function smallestOfClass(ttlClass: number): number {
  return 4 ** ttlClass;
}
