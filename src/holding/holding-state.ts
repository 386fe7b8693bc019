import { LockExpiredError, LockerClosedError, LockLostError, LockNotHeldError } from "../contract/errors.ts";
import type { Settler } from "../runtime/settled-later.ts";

/** The state during a release. It settles the holder's call to `release()`, which began at `start`, by `performance.now()`. */
export interface Releasing extends Settler<void> {
  readonly is: "releasing";
  readonly start: number;
}

//            release()              its answer
//   held ───────────────▶ releasing ───────────▶ released
//    │                        └── the answer: not held ──▶ lost
//    ├── the TTL passes ──▶ expired    the server's lock stays until release(), refresh() or close()
//    ├── the session ends, a refresh fails ──▶ lost
//    └── locker.close() ──▶ closed
export type HoldingState =
  | { readonly is: "held" }
  | Releasing
  | { readonly is: "released" }
  | { readonly is: "expired" }
  | { readonly is: "lost"; readonly cause: unknown }
  | { readonly is: "closed" };

// States without data, shared by all locks.
export const held: HoldingState = { is: "held" };
export const released: HoldingState = { is: "released" };

/** The reason of `lock.signal` in a state; `undefined` if the signal hasn't aborted. */
export function lossOf(
  state: HoldingState,
  { key, ttl }: { key: string; ttl: number },
): LockLostError | LockExpiredError | undefined {
  switch (state.is) {
    case "expired":
      return new LockExpiredError({ key, ttl });
    case "lost":
      return new LockLostError({ key, cause: state.cause });
    case "closed":
      return new LockLostError({ key, cause: new LockerClosedError() });
    default:
      return undefined;
  }
}

/** The error of a refresh or a release in a state in which the lock is not held. */
export function notHeldIn(state: Exclude<HoldingState, { is: "held" }>, key: string): LockNotHeldError {
  switch (state.is) {
    case "lost":
      return new LockNotHeldError({ key, reason: "lost", cause: state.cause });
    case "releasing":
      return new LockNotHeldError({ key, reason: "released" });
    default:
      return new LockNotHeldError({ key, reason: state.is });
  }
}
