import type { LockHolder } from "../contract/lock-inspection.ts";
import { elapsedSince, type Instant, now } from "../runtime/clock.ts";
import {
  type Grant,
  type LockRequest,
  type LockStore,
  type Refusal,
  type TryListener,
  tell,
  type WantedLock,
} from "./grant.ts";
import { ttlInServer } from "./least-ttl.ts";
import type { LockerStore } from "./locker-store.ts";

/** What a lock in memory needs to know. */
type WantedInMemory = Pick<WantedLock, "id" | "mode" | "ttl" | "fencing" | "holdAtLeast">;

/** Locks inside one process. */
export class MemoryStore implements LockerStore {
  readonly sessionCount = 0;
  readonly hasNoOrder = true;
  readonly #isEnforced: boolean;
  #lastToken = 0n;
  readonly #holders = new Map<bigint, Set<MemoryLock>>();

  constructor({ isEnforced }: { isEnforced: boolean }) {
    this.#isEnforced = isEnforced;
  }

  tryLock(request: LockRequest, listener: TryListener<Grant>): void {
    tell(listener, this.take(request.wanted));
  }

  get enforcing(): LockStore<Grant> {
    const { hasNoOrder } = this;
    return {
      hasNoOrder,
      tryLock: (request, listener) => tell(listener, this.take(request.wanted, { lapses: true })),
    };
  }

  /** Tries once. */
  async take(wanted: WantedInMemory, { lapses } = { lapses: this.#isEnforced }): Promise<Grant | Refusal> {
    const { id, mode, fencing } = wanted;
    const holders = this.#holders.get(id) ?? new Set();
    for (const holder of holders) if (holder.lapsed) holders.delete(holder);
    const excluded = [...holders].some((holder) => holder.mode === "exclusive" || mode === "exclusive");
    if (excluded) return { refused: "held" };
    if (fencing) this.#lastToken += 1n;
    const lock = new MemoryLock({
      mode,
      ttl: ttlInServer(wanted),
      lapses,
      fencingToken: fencing ? this.#lastToken : undefined,
      free: () => {
        if (!holders.delete(lock)) throw new Error("the lock had lapsed and gone to another holder");
        if (holders.size === 0) this.#holders.delete(id);
      },
    });
    holders.add(lock);
    this.#holders.set(id, holders);
    return lock;
  }

  holdersOf(id: bigint): LockHolder[] {
    return [...(this.#holders.get(id) ?? [])].filter((lock) => !lock.lapsed).map(holderOf);
  }

  async holderOf(id: bigint) {
    const holders = [...(this.#holders.get(id) ?? [])];
    const isHeld = holders.some((holder) => holder.mode === "exclusive" && !holder.lapsed);
    return isHeld ? { host: undefined, pid: undefined, sessionSince: undefined } : undefined;
  }

  async heldIn(first: bigint, { bits }: { bits: number }): Promise<number[]> {
    const held: number[] = [];
    for (const [id, holders] of this.#holders) {
      const at = id - first;
      if (at < 0n || at >= 1n << BigInt(bits)) continue;
      if ([...holders].some((holder) => !holder.lapsed)) held.push(Number(at));
    }
    return held;
  }

  async ping(): Promise<void> {}

  async close(): Promise<void> {}
}

function holderOf({ mode, since, keptUntil, fencingToken }: MemoryLock): LockHolder {
  return {
    mode,
    own: true,
    since,
    keptUntil: keptUntil?.(),
    fencingToken,
    pid: undefined,
    host: undefined,
    applicationName: undefined,
    user: undefined,
    sessionSince: undefined,
    preparedTransaction: undefined,
  };
}

class MemoryLock implements Grant {
  readonly mode;
  readonly since = new Date();
  readonly fencingToken: bigint | undefined;
  readonly lapses: boolean;
  readonly goneBecause = undefined;
  keptUntil: (() => Date) | undefined;
  readonly #free: () => void;
  #ttl: number;
  readonly grantedAt = now();
  #provenAt: Instant = this.grantedAt;

  constructor(
    granted: Pick<WantedLock, "mode" | "ttl"> &
      Pick<Grant, "lapses" | "fencingToken"> & { readonly free: () => void },
  ) {
    this.lapses = granted.lapses;
    this.fencingToken = granted.fencingToken;
    this.mode = granted.mode;
    this.#ttl = granted.ttl;
    this.#free = granted.free;
  }

  /** Whether the lock has expired and may be taken over. Read by the next caller, so that a late timer of the holder doesn't matter. */
  get lapsed(): boolean {
    return this.lapses && elapsedSince(this.#provenAt) >= this.#ttl;
  }

  /** Never calls back: a lock in memory is ended only by its holder or by its TTL, which the handle measures itself. */
  onGone(): void {}

  async refresh(ttl: number): Promise<Instant> {
    this.#provenAt = now();
    this.#ttl = ttl;
    return this.#provenAt;
  }

  keep(until: () => Date): void {
    this.keptUntil = until;
  }

  async release(): Promise<void> {
    this.#free();
  }
}
