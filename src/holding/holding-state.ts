import { LockExpiredError, LockerClosedError, LockLostError, LockNotHeldError } from "../contract/errors.ts";

//            release()              its answer
//   held ───────────────▶ releasing ───────────▶ released
//    │                        └── the answer: not held ──▶ lost
//    ├── the TTL passes ──▶ expired    the server's lock stays until release(), refresh() or close()
//    ├── the session ends, a refresh fails ──▶ lost
//    └── locker.close() ──▶ closed
export type HoldingState =
  | { readonly is: "held" }
  | {
      readonly is: "releasing";
      /** Settle the call of its holder, which began at `start`, by `performance.now()`. */
      readonly resolve: () => void;
      readonly reject: (error: unknown) => void;
      readonly start: number;
    }
  | { readonly is: "released" }
  | { readonly is: "expired" }
  | { readonly is: "lost"; readonly cause: unknown }
  | { readonly is: "closed" };

// One of each for all locks.
export const held: HoldingState = { is: "held" };
export const released: HoldingState = { is: "released" };

/** What the signal of a lock aborts with in a state; `undefined` where it doesn't. */
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

/** Why a lock in such a state can't be refreshed, or released once more. */
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
