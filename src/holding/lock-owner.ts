import type { CircuitBreaker } from "../runtime/circuit-breaker.ts";
import type { Expiries } from "../runtime/expiries.ts";
import type { Telemetry } from "../runtime/telemetry.ts";
import type { Wanted } from "../waiting/attempt.ts";
import type { HeldLock } from "./held-lock.ts";

/** The parts of a locker that its handles use. */
export interface LockOwner {
  readonly telemetry: Pick<
    Telemetry,
    "log" | "isTraced" | "granted" | "succeeded" | "failed" | "ended" | "observe" | "inSpan"
  >;
  readonly breaker: CircuitBreaker | undefined;
  readonly expiries: Expiries;
  /** Checks a TTL. @returns milliseconds @throws {InvalidTtlError} */
  assertTtl(got: unknown): number;
  /** Called when nothing of this lock is left in the server. */
  forget(lock: HeldLock): void;
  /** Called when the holder no longer relies on the lock, while the server may still have it. */
  expired(lock: HeldLock): void;
}

/** What a lock is made of, beside its grant. */
export type HeldFacts = Pick<Wanted, "key" | "id" | "mode" | "ttl" | "autoRefresh">;
