/** The TTLs of many, in milliseconds, and the smallest of them at hand: few differ, however many there are. */
export class SmallestTtl {
  readonly #counts = new Map<number, number>();
  /** How many there are. Only {@link change} writes it. */
  size = 0;

  /** `Infinity` where there is none. */
  get value(): number {
    let smallest = Number.POSITIVE_INFINITY;
    for (const ttl of this.#counts.keys()) if (ttl < smallest) smallest = ttl;
    return smallest;
  }

  /** The smallest that is no less than this one; if all are less, the smallest. */
  noLessThan(least: number): number {
    let smallest = Number.POSITIVE_INFINITY;
    for (const ttl of this.#counts.keys()) if (ttl >= least && ttl < smallest) smallest = ttl;
    return Number.isFinite(smallest) ? smallest : this.value;
  }

  /** One that had a TTL has another; `undefined`: it had none, or has none any more. */
  change(before: number | undefined, now: number | undefined): void {
    if (before === now) return;
    if (before !== undefined) this.#count(before, -1);
    if (now !== undefined) this.#count(now, 1);
  }

  #count(ttl: number, more: 1 | -1): void {
    this.size += more;
    const count = (this.#counts.get(ttl) ?? 0) + more;
    if (count > 0) this.#counts.set(ttl, count);
    else this.#counts.delete(ttl);
  }
}
