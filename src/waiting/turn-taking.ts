/** So many times in a row a process takes a lock that others wait for before it lets them go first. */
const inARow = 16;
/** Milliseconds that it then leaves them, doubled as long as none of them makes use of it. */
const shortest = 10;
const longest = 1_000;
/** Milliseconds after which one more reader is let in beside those there are, doubled as long as others still wait then. */
const shut = { shortest: 1_000, longest: 60_000 };
/** So many locks are remembered; the one that was given back longest ago is forgotten first. */
const capacity = 10_000;

/**
 * Keeps a busy process from starving the others. Its own callers hear of a release before anybody else can, and could hand
 * a lock on among themselves for ever. So whenever they have had it {@link inARow} times while somebody elsewhere waited,
 * the next of them pauses first.
 *
 * Readers whose holding overlaps could go on without a release at all. So when {@link inARow} of them were let in beside others
 * while somebody elsewhere waited, no more are until all have left: the lock is shut for them. Whether that somebody still waits
 * is known only from one that was let in; so that is done now and then.
 */
export class TurnTaking {
  readonly #rows = new Map<bigint, number>();
  readonly #shut = new Map<bigint, { since: number; lasts: number }>();

  /** One of ours, or the last of those that shared it, has given the lock back. */
  released(id: bigint, othersWait: boolean): void {
    const row = this.#rows.get(id) ?? 0;
    // Those that were let in have been counted.
    const more = this.#shut.delete(id) ? 0 : 1;
    this.#rows.delete(id);
    if (!othersWait) return;
    this.#rows.set(id, row + more);
    if (this.#rows.size > capacity) {
      const [oldest = id] = this.#rows.keys();
      this.#rows.delete(oldest);
    }
  }

  /** A reader of ours was let in beside another of ours. */
  joined(id: bigint, othersWait: boolean): void {
    const before = this.#shut.get(id);
    const row = (this.#rows.get(id) ?? 0) + 1;
    if (!othersWait) {
      this.lost(id);
    } else if (before !== undefined) {
      this.#shut.set(id, { since: performance.now(), lasts: Math.min(2 * before.lasts, shut.longest) });
    } else {
      this.#rows.set(id, row);
      if (row % inARow === 0) this.#shut.set(id, { since: performance.now(), lasts: shut.shortest });
    }
  }

  /** Whether no more readers are to be let in beside those of ours that have the lock. */
  isShut(id: bigint): boolean {
    const known = this.#shut.get(id);
    return known !== undefined && performance.now() - known.since < known.lasts;
  }

  /** Somebody else has the lock, or nobody else wants it. */
  lost(id: bigint): void {
    this.#rows.delete(id);
    this.#shut.delete(id);
  }

  /** Milliseconds to leave to others before the next try. */
  pause(id: bigint): number {
    const row = this.#rows.get(id) ?? 0;
    if (row === 0 || row % inARow !== 0) return 0;
    return Math.min(shortest * 2 ** (row / inARow - 1), longest);
  }
}
