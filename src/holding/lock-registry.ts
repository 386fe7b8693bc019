import type { Lock } from "../contract/lock.ts";
import { type Instant, longestTimer } from "../runtime/clock.ts";
import type { Grant } from "../sessions/grant.ts";
import type { Hold } from "../waiting/attempt.ts";
import { HeldLock } from "./held-lock.ts";
import type { LockOwner } from "./lock-owner.ts";

/** What the registry knows of a lock. */
export interface RegisteredLock extends Pick<Lock, "key" | "id" | "mode" | "expired"> {
  /** The backend of its session, if that is known. */
  readonly pid?: number | undefined;
  /** When it was granted, if that is known. */
  readonly grantedAt?: Instant;
  readonly fencingToken?: bigint | undefined;
  /** Ends holding because the locker closes. Absent if the lock ends with something else that closes. Never rejects. */
  close?(): Promise<void>;
}

/** All locks of a locker that the server still has, those of transactions among them. */
export class LockRegistry {
  /** An array if several share it. */
  readonly #byId = new Map<bigint, RegisteredLock | RegisteredLock[]>();
  /** Set while a call of {@link drained} waits. */
  #onDelete: (() => void) | undefined;

  add(lock: RegisteredLock): void {
    const there = this.#byId.get(lock.id);
    if (there === undefined) this.#byId.set(lock.id, lock);
    else if (Array.isArray(there)) there.push(lock);
    else this.#byId.set(lock.id, [there, lock]);
  }

  /** Returns what makes handles of grants, for locks that belong to `owner`, and adds them. */
  holdBy(owner: LockOwner): Hold<Grant, HeldLock> {
    return (grant, wanted) => {
      const lock = new HeldLock(wanted, grant, owner);
      this.add(lock);
      return lock;
    };
  }

  delete(lock: RegisteredLock): void {
    const there = this.#byId.get(lock.id);
    if (there === lock) {
      this.#byId.delete(lock.id);
    } else if (Array.isArray(there)) {
      const others = there.filter((each) => each !== lock);
      if (others.length === 0) this.#byId.delete(lock.id);
      else this.#byId.set(lock.id, others);
    }
    this.#onDelete?.();
  }

  /** Resolves when nobody relies on any of them, after that many milliseconds at the latest. */
  drained(milliseconds: number): Promise<void> {
    if (!this.isHolding) return Promise.resolve();
    return new Promise((resolve) => {
      const over = (): void => {
        clearTimeout(timer);
        clearInterval(look);
        this.#onDelete = undefined;
        resolve();
      };
      const timer = setTimeout(over, Math.min(milliseconds, longestTimer));
      const lookAgain = (): void => {
        if (!this.isHolding) over();
      };
      // A lock whose TTL passes is not given back.
      const look = setInterval(lookAgain, 100);
      this.#onDelete = lookAgain;
    });
  }

  /** The holders of one lock id, in the order of their grants. */
  with(id: bigint): readonly RegisteredLock[] {
    return this.#of(id);
  }

  get size(): number {
    let size = 0;
    for (const there of this.#byId.values()) size += Array.isArray(there) ? there.length : 1;
    return size;
  }

  /** Whether anybody still relies on one of them. */
  get isHolding(): boolean {
    for (const there of this.#byId.values()) {
      if (Array.isArray(there) ? there.some(({ expired }) => !expired) : !there.expired) return true;
    }
    return false;
  }

  /** Ends all of them. Never rejects. */
  async close(): Promise<void> {
    await Promise.all([...this.#byId.values()].flat().map((lock) => lock.close?.()));
  }

  /** Another key that is held here and has the same id. */
  namesake({ id, key }: Pick<Lock, "id" | "key">): string | undefined {
    return this.#of(id).find((lock) => lock.key !== key)?.key;
  }

  /** Whether a holder of `key` in this locker keeps out a caller of `mode`, and its end will be noticed. */
  keepOut({ id, key, mode }: Pick<Lock, "id" | "key" | "mode">): boolean {
    return this.#of(id).some((lock) => {
      const excludes = lock.mode === "exclusive" || mode === "exclusive";
      return excludes && lock.key === key && !lock.expired;
    });
  }

  #of(id: bigint): readonly RegisteredLock[] {
    const there = this.#byId.get(id);
    return there === undefined ? [] : [there].flat();
  }
}
