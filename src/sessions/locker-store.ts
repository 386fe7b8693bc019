import type { Leader } from "../contract/election.ts";
import type { NotReserved } from "../postgres/reservation.ts";
import type { Grant, LockStore } from "./grant.ts";

/** Where the locks of a locker live, and what is opened for them. */
export interface LockerStore extends LockStore<Grant> {
  /** Proves that locks could be taken now. */
  ping(): Promise<void>;
  /** Ends what was opened. Never rejects, and takes seconds at most. */
  close(): Promise<void>;
  /** Whether a lock whose TTL has passed is free, whatever has become of its holder. */
  readonly freesExpired: boolean;
  /** Who holds the lock alone, and is seen to. */
  holderOf(id: bigint): Promise<Omit<Leader, "isSelf"> | undefined>;
  /** Which of a block of 2^`bits` ids anybody holds, counted from the first one. */
  heldIn(first: bigint, bits: number): Promise<readonly number[] | NotReserved>;
  /** How many sessions carry locks, or are waited on. */
  readonly sessionCount: number;
}
