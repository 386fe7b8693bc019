import { type ListLocksOptions, type LockInfo, listLocks } from "../index.ts";

type Looks = Parameters<typeof listLocks>[0];

/** Milliseconds to wait for holders to send the keys of their locks. */
export const keysWithin = 500;
/** Milliseconds between two questions. They are rare, because each holder connects to answer. */
const betweenQuestions = 2_000;

/** Lists locks, and remembers the keys that holders have sent, because the key of a lock id never changes. */
export class KnownKeys {
  readonly #pool: Looks;
  readonly #known = new Map<bigint, Pick<LockInfo, "key" | "claimedKey" | "namespace">>();
  /** What is not proven, by the lock and the session that claims it. */
  readonly #claimed = new Map<string, Pick<LockInfo, "claimedKey" | "namespace">>();
  #askedAt = Number.NEGATIVE_INFINITY;

  constructor(pool: Looks) {
    this.#pool = pool;
  }

  /** Lists locks as {@link listLocks} does, with the keys of locks on shared sessions. */
  async look(options: Pick<ListLocksOptions, "signal"> = {}): Promise<LockInfo[]> {
    const isDue = performance.now() - this.#askedAt >= betweenQuestions;
    if (isDue) this.#askedAt = performance.now();
    const locks = await listLocks(this.#pool, { ...options, ...(isDue && { keysWithin }) });
    for (const { id, pid, key, claimedKey, namespace } of locks) {
      if (key !== undefined) this.#known.set(id, { key, claimedKey, namespace });
      else if (claimedKey !== undefined) this.#claimed.set(`${pid} ${id}`, { claimedKey, namespace });
    }
    return locks.map((lock) => ({
      ...lock,
      ...(this.#known.get(lock.id) ?? this.#claimed.get(`${lock.pid} ${lock.id}`)),
    }));
  }
}
