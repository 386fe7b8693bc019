import { inspect } from "node:util";
import { assertFunction, assertPositiveTtl, assertTransactionOptions } from "./contract/acquire-options.ts";
import type { ElectOptions } from "./contract/election.ts";
import { InvalidConfigError } from "./contract/errors.ts";
import type {
  AcquireOptions,
  CloseOptions,
  Lock,
  LockerStats,
  LockGroup,
  PingOptions,
  TransactionClient,
  TransactionOptions,
  TryResult,
} from "./contract/locker.ts";
import type { Semaphore } from "./contract/semaphore.ts";
import type { TransactionLocker } from "./contract/transaction-locker.ts";
import { defaultTtl, LockerCore, type LockerStore } from "./locker-core.ts";
import { checkMemoryLockerOptions, type MemoryLockerOptions } from "./locker-options.ts";
import { begin, commit, rollback } from "./postgres/sql-transaction.ts";
import { elapsedSince, type Instant, now } from "./runtime/clock.ts";
import { Telemetry } from "./runtime/telemetry.ts";
import { type Grant, type LockRequest, type Refusal, type TryListener, tell } from "./sessions/grant.ts";
import { assertEnforceableTtl } from "./sessions/server-ttl.ts";
import { carry } from "./waiting/reentrancy.ts";

/**
 * The same contract inside one process, for tests and for services of one replica. Two lockers share nothing.
 *
 * A lock whose TTL has passed keeps others out until its holder releases it, as with `PostgresLocker`; with `ttlEnforcement:
 * "server"`, too, it goes to the next caller.
 */
export class MemoryLocker implements TransactionLocker {
  readonly #core: LockerCore;
  readonly #transaction: (() => TransactionClient | Promise<TransactionClient>) | undefined;
  readonly #shown: object;

  /** @throws {InvalidConfigError} names the field, what it got and what it wants */
  constructor(options: MemoryLockerOptions = {}) {
    const checked = checkMemoryLockerOptions(options);
    const { namespace = 0, ttlEnforcement = "client" } = checked;
    const isEnforced = ttlEnforcement === "server";
    this.#shown = { namespace };
    this.#core = new LockerCore({
      namespace,
      telemetry: new Telemetry(checked),
      breaker: checked.circuitBreaker,
      assertTtl: isEnforced ? assertEnforceableTtl : assertPositiveTtl,
      defaultTtl,
      store: new MemoryStore({ isEnforced }),
    });
    this.#transaction = checked.transaction;
    // So that `const { acquire } = locker` works.
    this.acquire = this.acquire.bind(this);
    this.tryAcquire = this.tryAcquire.bind(this);
    this.acquireAll = this.acquireAll.bind(this);
    this.withLock = this.withLock.bind(this);
    this.tryWithLock = this.tryWithLock.bind(this);
    this.withTransaction = this.withTransaction.bind(this);
    this.elect = this.elect.bind(this);
    this.semaphore = this.semaphore.bind(this);
    this.ping = this.ping.bind(this);
    this.stats = this.stats.bind(this);
    this.close = this.close.bind(this);
  }

  acquire(key: string, options?: AcquireOptions): Promise<Lock> {
    return this.#core.acquire(key, options);
  }

  tryAcquire(key: string, options?: AcquireOptions): Promise<Lock | undefined> {
    return this.#core.tryAcquire(key, options);
  }

  acquireAll(keys: readonly string[], options?: AcquireOptions): Promise<LockGroup> {
    return this.#core.acquireAll(keys, options);
  }

  withLock<T>(key: string, fn: (lock: Lock) => T | Promise<T>, options?: AcquireOptions): Promise<T> {
    return this.#core.withLock(key, fn, options);
  }

  tryWithLock<T>(
    key: string,
    fn: (lock: Lock) => T | Promise<T>,
    options?: AcquireOptions,
  ): Promise<TryResult<T>> {
    return this.#core.tryWithLock(key, fn, options);
  }

  /**
   * Runs `fn` under the lock of `key`, with the client that the option `transaction` makes, which is told `begin`, and `commit` or
   * `rollback`; or with that of `options.client`, which is told nothing.
   *
   * The lock lasts until `fn` has ended, also with a client of the caller's, whose transaction `PostgresLocker` would wait for. There is
   * no server to end a transaction that is idle: a `ttl` is checked, and otherwise means nothing.
   *
   * @throws what `acquire` throws; then `fn` has not run
   * @throws {LockLostError} the locker was closed meanwhile; nothing is committed
   * @throws what `fn`, the option `transaction` or the client throws
   */
  async withTransaction<T, C extends TransactionClient = TransactionClient>(
    key: string,
    fn: (client: C) => T | Promise<T>,
    options: TransactionOptions<C> = {},
  ): Promise<T> {
    assertFunction(fn);
    const { client, ...rest } = assertTransactionOptions(options);
    return await this.withLock(
      key,
      async (lock) => {
        if (client !== undefined) return await fn(client as C);
        if (this.#transaction === undefined) return await fn(withoutTransaction as C);
        const made = (await this.#transaction()) as C;
        return await inTransaction(made, async () => {
          const value = await fn(made);
          lock.assertHeld();
          return value;
        });
      },
      rest,
    );
  }

  elect(key: string, options: ElectOptions): Promise<void> {
    return this.#core.elect(key, options);
  }

  semaphore(key: string, permits: number): Semaphore {
    return this.#core.semaphore(key, permits);
  }

  ping(options?: PingOptions): Promise<void> {
    return this.#core.ping(options);
  }

  /** What it holds and does at this moment, for a log line, a health page or a test. Works after `close()`, too. */
  stats(): LockerStats {
    return this.#core.stats();
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#core.close(options);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** @internal */
  [inspect.custom](_depth: unknown, options: object): string {
    return `MemoryLocker ${inspect({ ...this.#shown, ...this.stats() }, options)}`;
  }
}

/** What a function is given if the test has not said what: one that needs no client does without. */
const withoutTransaction: TransactionClient = {
  query: async () => {
    const wants = "given to MemoryLocker, if a transaction is to have a client";
    throw new InvalidConfigError({ field: "transaction", got: undefined, wants });
  },
};

async function inTransaction<T>(client: TransactionClient, work: () => Promise<T>): Promise<T> {
  await client.query(begin.text);
  let value: T;
  try {
    value = await work();
  } catch (error) {
    await client.query(rollback.text).catch((suppressed: unknown) => carry(error, suppressed));
    throw error;
  }
  await client.query(commit.text);
  return value;
}

/** Locks of one process. */
class MemoryStore implements LockerStore {
  readonly sessionCount = 0;
  readonly #isEnforced: boolean;
  #lastToken = 0n;
  readonly #holders = new Map<bigint, Set<MemoryLock>>();

  constructor({ isEnforced }: { isEnforced: boolean }) {
    this.#isEnforced = isEnforced;
  }

  tryLock(request: LockRequest, listener: TryListener<Grant>): void {
    tell(listener, this.#tryLock(request));
  }

  async #tryLock(request: LockRequest): Promise<Grant | Refusal> {
    const holders = this.#holders.get(request.id) ?? new Set();
    for (const holder of holders) if (holder.lapsed) holders.delete(holder);
    const excluded = [...holders].some(
      (holder) => holder.mode === "exclusive" || request.mode === "exclusive",
    );
    if (excluded) return { refused: "held" };
    if (request.fencing) this.#lastToken += 1n;
    const lock = new MemoryLock(request, {
      lapses: this.#isEnforced,
      fencingToken: request.fencing ? this.#lastToken : undefined,
      free: () => {
        if (!holders.delete(lock)) throw new Error("the lock had lapsed and gone to another holder");
        if (holders.size === 0) this.#holders.delete(request.id);
      },
    });
    holders.add(lock);
    this.#holders.set(request.id, holders);
    return lock;
  }

  get freesExpired(): boolean {
    return this.#isEnforced;
  }

  async holderOf(id: bigint) {
    const holders = [...(this.#holders.get(id) ?? [])];
    const isHeld = holders.some((holder) => holder.mode === "exclusive" && !holder.lapsed);
    return isHeld ? { host: undefined, pid: undefined, sessionSince: undefined } : undefined;
  }

  async heldIn(first: bigint, bits: number): Promise<number[]> {
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

class MemoryLock implements Grant {
  readonly mode;
  readonly fencingToken: bigint | undefined;
  readonly lapses: boolean;
  readonly goneBecause = undefined;
  readonly #free: () => void;
  #ttl: number;
  provenAt: Instant = now();

  constructor(
    request: LockRequest,
    rest: { lapses: boolean; fencingToken: bigint | undefined; free: () => void },
  ) {
    this.lapses = rest.lapses;
    this.fencingToken = rest.fencingToken;
    this.mode = request.mode;
    this.#ttl = request.ttl;
    this.#free = rest.free;
  }

  /** Whoever asks next finds that it has, also if the holder's timer is late. */
  get lapsed(): boolean {
    return this.lapses && elapsedSince(this.provenAt) >= this.#ttl;
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
