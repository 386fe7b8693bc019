/** So many times in a row a process takes a lock that others wait for before it lets them go first. */
const inARow = 16;
/** Milliseconds that it then leaves them, doubled as long as none of them makes use of it. */
const shortest = 10;
const longest = 1_000;
/** So many locks are remembered; the one that was given back longest ago is forgotten first. */
const capacity = 10_000;

/**
 * Keeps a busy process from starving the others. Its own callers hear of a release before anybody else can, and could hand
 * a lock on among themselves for ever. So whenever they have had it {@link inARow} times while somebody elsewhere waited,
 * the next of them pauses first.
 */
export class TurnTaking {
  readonly #rows = new Map<bigint, number>();

  /** One of ours has given the lock back. */
  released(id: bigint, othersWait: boolean): void {
    const row = this.#rows.get(id) ?? 0;
    this.#rows.delete(id);
    if (!othersWait) return;
    this.#rows.set(id, row + 1);
    if (this.#rows.size > capacity) {
      const [oldest = id] = this.#rows.keys();
      this.#rows.delete(oldest);
    }
  }

  /** Somebody else has the lock. */
  lost(id: bigint): void {
    this.#rows.delete(id);
  }

  /** Milliseconds to leave to others before the next try. */
  pause(id: bigint): number {
    const row = this.#rows.get(id) ?? 0;
    if (row === 0 || row % inARow !== 0) return 0;
    return Math.min(shortest * 2 ** (row / inARow - 1), longest);
  }
}
