import { BaseLocker } from "./base-locker.ts";
import { checkMemoryLockerOptions, type MemoryLockerOptions } from "./locker-options.ts";
import { elapsedSince, type Instant, now } from "./runtime/clock.ts";
import { Telemetry } from "./runtime/telemetry.ts";
import type { Grant, LockRequest, Refusal } from "./sessions/grant.ts";

/**
 * The same contract inside one process, for tests and for services of one replica. Two lockers share nothing. A lock
 * whose TTL passes goes to the next caller.
 */
export class MemoryLocker extends BaseLocker {
  #lastToken = 0n;
  readonly #holders = new Map<bigint, Set<MemoryLock>>();

  /** @throws {InvalidConfigError} names the field, what it got and what it wants */
  constructor(options: MemoryLockerOptions = {}) {
    const checked = checkMemoryLockerOptions(options);
    super({
      namespace: checked.namespace ?? 0,
      telemetry: new Telemetry(checked),
      breaker: checked.circuitBreaker,
    });
  }

  protected override attempt(): { tryLock(request: LockRequest): Promise<Grant | Refusal> } {
    return { tryLock: (request) => this.#tryLock(request) };
  }

  async #tryLock(request: LockRequest): Promise<Grant | Refusal> {
    const holders = this.#holders.get(request.id) ?? new Set();
    for (const holder of holders) if (holder.lapsed) holders.delete(holder);
    const excluded = [...holders].some(
      (holder) => holder.mode === "exclusive" || request.mode === "exclusive",
    );
    if (excluded) return { refused: "held" };
    if (request.fencing) this.#lastToken += 1n;
    const lock = new MemoryLock(request, request.fencing ? this.#lastToken : undefined, () => {
      if (!holders.delete(lock)) throw new Error("the lock had lapsed and gone to another holder");
      if (holders.size === 0) this.#holders.delete(request.id);
    });
    holders.add(lock);
    this.#holders.set(request.id, holders);
    return lock;
  }

  protected override async probe(): Promise<void> {}

  protected override async end(): Promise<void> {}
}

class MemoryLock implements Grant {
  readonly mode;
  readonly fencingToken: bigint | undefined;
  /** Whoever asks next finds that it has. */
  readonly lapses = false;
  readonly goneBecause = undefined;
  readonly #free: () => void;
  #ttl: number;
  provenAt: Instant = now();

  constructor(request: LockRequest, fencingToken: bigint | undefined, free: () => void) {
    this.fencingToken = fencingToken;
    this.mode = request.mode;
    this.#ttl = request.ttl;
    this.#free = free;
  }

  get lapsed(): boolean {
    return elapsedSince(this.provenAt) >= this.#ttl;
  }

  /** Nothing ends a lock in memory but its holder and its TTL, which the handle counts as well. */
  onGone(): void {}

  async refresh(ttl: number): Promise<Instant> {
    this.provenAt = now();
    this.#ttl = ttl;
    return this.provenAt;
  }

  async release(): Promise<void> {
    this.#free();
  }
}
