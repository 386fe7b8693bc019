import { milliseconds } from "../contract/duration.ts";
import { InvalidTtlError } from "../contract/errors.ts";
import type { TrustRule } from "../runtime/trust-window.ts";

// A TTL that the server enforces is the `idle_session_timeout` of the holder's session, which the server ends when nothing
// has come from its client for so long
// (https://www.postgresql.org/docs/current/runtime-config-client.html#GUC-IDLE-SESSION-TIMEOUT).

/** Milliseconds: the setting's range. 0 is none at all, and so is less than half a millisecond, which rounds to it. */
const shortest = 1;
const longest = 2 ** 31 - 1;

/** @returns milliseconds @throws {InvalidTtlError} */
export function assertEnforceableTtl(got: unknown): number {
  const ttl = milliseconds(got);
  if (ttl === undefined || !(ttl >= shortest && ttl <= longest)) {
    throw new InvalidTtlError(
      got,
      `a duration from ${shortest} ms to ${longest} ms, which the server can enforce`,
    );
  }
  return ttl;
}

/** The setting for a TTL. Rounded up: the server may never end a session before its holder stops believing. */
export function sessionTimeout(ttl: number): string {
  return Math.ceil(ttl).toString();
}

/**
 * Milliseconds after the last proof was sent that a holder may believe: a TTL less a margin.
 *
 * The server's timer begins when it has answered, later than that by the way there and back, so that without a margin the
 * holder would be first already; but not where the two clocks differ in rate. 0.1 % is twice what a clock that NTP is
 * pulling straight may differ, and a millisecond is what both round to.
 */
export function believable(ttl: number): number {
  return ttl - Math.min(1 + ttl / 1_000, ttl / 10);
}

/** If the server ends what a TTL is of. */
export const enforcedRule: TrustRule = { trusted: believable, enforced: true };
/** If nothing ends in the server when a TTL has passed: there is no margin. */
export const clientRule: TrustRule = { trusted: (ttl) => ttl, enforced: false };

/** The same of a lock: without a margin where its TTL ends nothing in the server. */
export function believableOf({ lapses }: { readonly lapses: boolean }, ttl: number): number {
  return lapses ? believable(ttl) : ttl;
}

/**
 * For a link that has died under a session that is not idle: `tcp_keepalives_idle` and `_interval` in seconds, such that
 * three unanswered probes take about a TTL; and `tcp_user_timeout` in milliseconds. Of no effect over a Unix socket.
 */
export function tcpTimeouts(ttl: number): [keepalive: string, userTimeout: string] {
  // 32767 s is the most that Linux takes.
  const keepalive = Math.min(Math.max(Math.ceil(ttl / 4_000), 1), 32_767);
  return [keepalive.toString(), Math.ceil(ttl).toString()];
}

/**
 * Which locks may share a session, if the server enforces their TTLs: those within a factor of four. The smallest of a session decides
 * how long it may be silent, so a short TTL beside a long one would end that with the first stall of the process.
 */
export function ttlClassOf(ttl: number): number {
  return Math.floor(Math.log2(ttl) / 2);
}

/** The smallest TTL of a class, in milliseconds. */
export function smallestOfClass(ttlClass: number): number {
  return 4 ** ttlClass;
}
