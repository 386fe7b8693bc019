/** Keeps track of the smallest of many TTLs, in milliseconds. It counts how often each occurs, because there are few different ones. */
export class SmallestTtl {
  readonly #counts = new Map<number, number>();
  /** How many there are. Only {@link change} writes it. */
  size = 0;

  /** The smallest TTL; `Infinity` if there is none. */
  get value(): number {
    let smallest = Number.POSITIVE_INFINITY;
    for (const ttl of this.#counts.keys()) if (ttl < smallest) smallest = ttl;
    return smallest;
  }

  /** The smallest TTL that is at least `least`; if all are less, the smallest. */
  noLessThan(least: number): number {
    let smallest = Number.POSITIVE_INFINITY;
    for (const ttl of this.#counts.keys()) if (ttl >= least && ttl < smallest) smallest = ttl;
    return Number.isFinite(smallest) ? smallest : this.value;
  }

  /** Records that a TTL has changed. `before` is `undefined` if it is new, `now` is `undefined` if it is gone. */
  change(before: number | undefined, now: number | undefined): void {
    if (before === now) return;
    if (before !== undefined) {
      const others = (this.#counts.get(before) ?? 1) - 1;
      if (others > 0) this.#counts.set(before, others);
      else this.#counts.delete(before);
      this.size -= 1;
    }
    if (now !== undefined) {
      this.#counts.set(now, (this.#counts.get(now) ?? 0) + 1);
      this.size += 1;
    }
  }
}
