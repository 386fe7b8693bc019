import type { Lock } from "../contract/locker.ts";

/** What the books say of a lock. */
export type Entry = Pick<Lock, "key" | "id" | "mode" | "expired">;
/** What they look for. */
type Sought = Omit<Entry, "expired">;

/** The books of a locker: everything whose lock the server still has, in the order of its grant. */
export class HeldLocks<L extends Entry> {
  /** More than one where it is shared. */
  readonly #byId = new Map<bigint, L[]>();

  add(lock: L): void {
    const sharing = this.#byId.get(lock.id);
    if (sharing === undefined) this.#byId.set(lock.id, [lock]);
    else sharing.push(lock);
  }

  delete(lock: L): void {
    const others = this.#byId.get(lock.id)?.filter((each) => each !== lock) ?? [];
    if (others.length === 0) this.#byId.delete(lock.id);
    else this.#byId.set(lock.id, others);
  }

  /** Whether anybody relies on one of them still. */
  get isHolding(): boolean {
    for (const locks of this.#byId.values()) if (locks.some((lock) => !lock.expired)) return true;
    return false;
  }

  all(): L[] {
    return [...this.#byId.values()].flat();
  }

  /** A key other than `key` whose lock has the same id. */
  namesake({ id, key }: { id: bigint; key: string }): string | undefined {
    for (const lock of this.#byId.get(id) ?? []) if (lock.key !== key) return lock.key;
    return undefined;
  }

  /** Whether a holder of `key` in this very locker, whose end will be noticed, keeps out a caller of `mode`. */
  keepOut({ id, key, mode }: Sought): boolean {
    for (const lock of this.#byId.get(id) ?? []) {
      const excludes = lock.mode === "exclusive" || mode === "exclusive";
      if (excludes && lock.key === key && !lock.expired) return true;
    }
    return false;
  }
}
