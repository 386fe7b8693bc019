import type { CircuitBreaker } from "../runtime/circuit-breaker.ts";
import type { Expiries } from "../runtime/expiries.ts";
import type { Telemetry } from "../runtime/telemetry.ts";
import type { HeldLock } from "./held-lock.ts";

/** What a handle needs of the locker that made it. */
export interface LockOwner {
  readonly telemetry: Telemetry;
  readonly breaker: CircuitBreaker | undefined;
  readonly expiries: Expiries;
  /** @returns milliseconds @throws {InvalidTtlError} */
  assertTtl(got: unknown): number;
  /** Nothing of this lock is left in the server. */
  forget(lock: HeldLock): void;
  /** The holder no longer believes, but the server may still have the lock. */
  expired(lock: HeldLock): void;
}
