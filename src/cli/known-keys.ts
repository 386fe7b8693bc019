import { type ListLocksOptions, type LockInfo, listLocks } from "../index.ts";

type Looks = Parameters<typeof listLocks>[0];

/** Milliseconds to wait for the holders of locks to tell their keys. */
const patience = 500;
/** Milliseconds from one question to the next: for each answer, a holder makes a connection. */
const betweenQuestions = 2_000;

/** Looks at locks, and remembers the keys that were told: that of a lock id is always the same. */
export class KnownKeys {
  readonly #pool: Looks;
  readonly #known = new Map<bigint, Pick<LockInfo, "key" | "namespace">>();
  #askedAt = Number.NEGATIVE_INFINITY;

  constructor(pool: Looks) {
    this.#pool = pool;
  }

  /** As {@link listLocks}, with the keys of locks on shared sessions. */
  async look(options: Pick<ListLocksOptions, "signal"> = {}): Promise<LockInfo[]> {
    const isDue = performance.now() - this.#askedAt >= betweenQuestions;
    if (isDue) this.#askedAt = performance.now();
    const locks = await listLocks(this.#pool, { ...options, ...(isDue && { keysWithin: patience }) });
    for (const { id, key, namespace } of locks)
      if (key !== undefined) this.#known.set(id, { key, namespace });
    return locks.map((lock) => ({ ...lock, ...this.#known.get(lock.id) }));
  }
}
