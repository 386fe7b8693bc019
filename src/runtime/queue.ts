/**
 * In order of arrival; anybody may leave from anywhere in it. A `Set` that is emptied from its front gets slower with each
 * element that has left: with 100,000 callers in it, its first element took seconds to find in all.
 */
export class Queue<T> {
  readonly #ends: Links<T> = emptyLinks();
  #size = 0;

  get size(): number {
    return this.#size;
  }

  get first(): T | undefined {
    const { next } = this.#ends;
    return next === this.#ends ? undefined : (next as Queued<T>).value;
  }

  push(value: T): Queued<T> {
    const { previous } = this.#ends;
    const queued: Queued<T> = { value, previous, next: this.#ends, isQueued: true };
    previous.next = queued;
    this.#ends.previous = queued;
    this.#size += 1;
    return queued;
  }

  /** Does nothing the second time. */
  remove(queued: Queued<T>): void {
    if (!queued.isQueued) return;
    queued.isQueued = false;
    queued.previous.next = queued.next;
    queued.next.previous = queued.previous;
    this.#size -= 1;
  }

  /** Whoever is removed while this goes on is left out, if they have not been reached. */
  *[Symbol.iterator](): Generator<T> {
    for (let at = this.#ends.next; at !== this.#ends; at = at.next) yield (at as Queued<T>).value;
  }
}

/** A place in a queue. Only the queue changes it. */
export interface Queued<T> extends Links<T> {
  readonly value: T;
  isQueued: boolean;
}

interface Links<T> {
  previous: Links<T>;
  next: Links<T>;
}

function emptyLinks<T>(): Links<T> {
  const links = {} as Links<T>;
  links.previous = links;
  links.next = links;
  return links;
}
