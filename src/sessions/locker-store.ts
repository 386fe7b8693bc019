import type { Leader } from "../contract/election.ts";
import type { Abandoned, NotReserved } from "../postgres/reservation.ts";
import type { StopSignal } from "../runtime/stop-signal.ts";
import type { Grant, LockStore } from "./grant.ts";

/** The store in which a locker's locks live. */
export interface LockerStore extends LockStore<Grant> {
  /** Proves that a lock could be acquired now. */
  ping(): Promise<void>;
  /** Closes everything that the store opened. Never rejects, and takes seconds at most. */
  close(): Promise<void>;
  /**
   * The store for locks that are freed when their TTL passes, whatever has become of their holder: this one, or sessions beside this one's.
   */
  readonly enforcing: LockStore<Grant>;
  /** The holder of an exclusive lock, if the server shows one. */
  holderOf(id: bigint): Promise<Omit<Leader, "isSelf"> | undefined>;
  /** Which ids of a block of 2^`bits` are held by anybody, as offsets from the first. An abort of `left` ends a wait for a connection. */
  heldIn(
    first: bigint,
    { bits, left }: { bits: number; left: StopSignal },
  ): Promise<readonly number[] | NotReserved | Abandoned>;
  /** How many sessions carry locks or have a caller waiting on them. */
  readonly sessionCount: number;
}
