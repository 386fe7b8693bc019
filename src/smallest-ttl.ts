/** The TTLs of many, in milliseconds, and the smallest of them at hand: few differ, however many there are. */
export class SmallestTtl {
  readonly #ttls = new Map<object, number>();
  readonly #counts = new Map<number, number>();

  get size(): number {
    return this.#ttls.size;
  }

  /** `Infinity` where there is none. */
  get value(): number {
    let smallest = Number.POSITIVE_INFINITY;
    for (const ttl of this.#counts.keys()) if (ttl < smallest) smallest = ttl;
    return smallest;
  }

  has(one: object): boolean {
    return this.#ttls.has(one);
  }

  set(one: object, ttl: number): void {
    this.delete(one);
    this.#ttls.set(one, ttl);
    this.#counts.set(ttl, (this.#counts.get(ttl) ?? 0) + 1);
  }

  /** @returns whether it was there */
  delete(one: object): boolean {
    const ttl = this.#ttls.get(one);
    if (ttl === undefined) return false;
    this.#ttls.delete(one);
    const left = (this.#counts.get(ttl) ?? 0) - 1;
    if (left > 0) this.#counts.set(ttl, left);
    else this.#counts.delete(ttl);
    return true;
  }
}
