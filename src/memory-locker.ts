import { inspect } from "node:util";
import { assertTtl } from "./contract/acquire-options.ts";
import type { TransactionClient, TransactionOptions } from "./contract/clients.ts";
import type { ElectOptions } from "./contract/election.ts";
import { InvalidConfigError } from "./contract/errors.ts";
import type { Lock, LockGroup } from "./contract/lock.ts";
import { defaultTtl } from "./contract/lock-defaults.ts";
import type { LockEventListener, LockEventName } from "./contract/lock-events.ts";
import type { InspectOptions, LockInspection } from "./contract/lock-inspection.ts";
import type { LockKey } from "./contract/lock-key.ts";
import type { AcquireOptions, CloseOptions, LockerStats, PingOptions, TryResult } from "./contract/locker.ts";
import type { Semaphore } from "./contract/semaphore.ts";
import type { NamespacedTransactionLocker, TransactionLocker } from "./contract/transaction-locker.ts";
import type { UnderLock } from "./contract/under-lock.ts";
import { LocksInTransactions } from "./holding/locks-in-transactions.ts";
import { MemoryTransactions } from "./holding/memory-transactions.ts";
import { LockerCore } from "./locker-core.ts";
import type { MemoryLockerOptions } from "./locker-options.ts";
import { PrefixedTransactionLocker } from "./namespaced-locker.ts";
import { checkMemoryLockerOptions } from "./option-rules.ts";
import { bindMethods } from "./runtime/bound-methods.ts";
import { Telemetry } from "./runtime/telemetry.ts";
import { MemoryStore } from "./sessions/memory-store.ts";
import { assertEnforceableTtl } from "./sessions/server-ttl.ts";

/**
 * A locker with the same contract as `PostgresLocker` inside one process, for tests and for services with one replica. Two lockers share
 * nothing.
 *
 * As with `PostgresLocker`, an expired lock keeps others out until its holder releases it; with `ttlEnforcement: "server"`, it goes to
 * the next caller, as that of a leader always does.
 */
export class MemoryLocker implements TransactionLocker {
  readonly #core: LockerCore;
  readonly #transactions: LocksInTransactions;
  readonly #shown: object;

  /** Creates a locker. @throws {InvalidConfigError} names the field, what it got and what it wants */
  constructor(options: MemoryLockerOptions = {}) {
    const checked = checkMemoryLockerOptions(options);
    const { namespace = 0, ttlEnforcement = "client" } = checked;
    const isEnforced = ttlEnforcement === "server";
    this.#shown = { namespace };
    const store = new MemoryStore({ isEnforced });
    this.#core = new LockerCore({
      namespace,
      lockId: checked.lockId,
      telemetry: new Telemetry(checked),
      breaker: checked.circuitBreaker,
      assertTtl: isEnforced ? assertEnforceableTtl : assertTtl,
      assertEnforcedTtl: assertEnforceableTtl,
      defaults: checked.defaults,
      defaultTtl,
      store,
      storeOn: noClient,
      look: async ({ id }) => ({ holders: store.holdersOf(id), waiters: [] }),
    });
    const stores = new MemoryTransactions(store, checked.transaction);
    this.#transactions = new LocksInTransactions(this.#core, { stores, ttlEnforcement });
    // Makes `const { acquire } = locker` work.
    bindMethods(this, [
      "acquire",
      "tryAcquire",
      "acquireAll",
      "withLock",
      "tryWithLock",
      "withTransaction",
      "inspect",
      "isHeld",
      "on",
      "elect",
      "semaphore",
      "ping",
      "stats",
      "tryAcquireAll",
      "withLocks",
      "wrapWithLock",
      "namespace",
      "close",
    ]);
  }

  acquire(key: LockKey, options?: AcquireOptions): Promise<Lock> {
    return this.#core.acquire(key, options);
  }

  tryAcquire(key: LockKey, options?: AcquireOptions): Promise<Lock | undefined> {
    return this.#core.tryAcquire(key, options);
  }

  acquireAll(keys: readonly LockKey[], options?: AcquireOptions): Promise<LockGroup> {
    return this.#core.acquireAll(keys, options);
  }

  withLock<T>(key: LockKey, fn: (lock: Lock) => T | Promise<T>, options?: AcquireOptions): Promise<T> {
    return this.#core.withLock(key, fn, options);
  }

  tryWithLock<T>(
    key: LockKey,
    fn: (lock: Lock) => T | Promise<T>,
    options?: AcquireOptions,
  ): Promise<TryResult<T>> {
    return this.#core.tryWithLock(key, fn, options);
  }

  /**
   * Runs `fn` under the lock of `key`, with the client that the option `transaction` makes, which gets `begin`, and then `commit` or
   * `rollback`. With `options.client`, `fn` runs with that client, which gets no statement from the locker.
   *
   * The lock lasts until `fn` has ended, even with a caller's client, whose lock would last until the end of the transaction with
   * `PostgresLocker`. There is no server that ends an idle transaction, so `ttl` is checked and then ignored.
   *
   * @throws what `acquire` throws; then `fn` has not run
   * @throws {LockerClosedError} the locker was closed in the meantime; nothing is committed. Not with `options.client`
   * @throws what `fn`, the option `transaction` or the client throws
   */
  withTransaction<T, C extends TransactionClient = TransactionClient>(
    key: LockKey,
    fn: (client: C) => T | Promise<T>,
    options: TransactionOptions<C> = {},
  ): Promise<T> {
    return this.#transactions.run(key, fn, options);
  }

  tryAcquireAll(keys: readonly LockKey[], options?: AcquireOptions): Promise<LockGroup | undefined> {
    return this.#core.tryAcquireAll(keys, options);
  }

  withLocks<T>(
    keys: readonly LockKey[],
    fn: (locks: LockGroup) => T | Promise<T>,
    options?: AcquireOptions,
  ): Promise<T> {
    return this.#core.withLocks(keys, fn, options);
  }

  wrapWithLock<F extends (this: never, ...args: never[]) => unknown>(
    key: LockKey | ((...args: Parameters<F>) => LockKey),
    fn: F,
    options?: AcquireOptions,
  ): UnderLock<F> {
    return this.#core.wrapWithLock(key, fn, options);
  }

  namespace(name: string): NamespacedTransactionLocker {
    return new PrefixedTransactionLocker(this, name);
  }

  inspect(key: LockKey, options?: InspectOptions): Promise<LockInspection> {
    return this.#core.inspect(key, options);
  }

  isHeld(key: LockKey, options?: InspectOptions): Promise<boolean> {
    return this.#core.isHeld(key, options);
  }

  on<E extends LockEventName>(event: E, listener: LockEventListener<E>): () => void {
    return this.#core.on(event, listener);
  }

  elect(key: LockKey, options: ElectOptions): Promise<void> {
    return this.#core.elect(key, options);
  }

  semaphore(key: LockKey, permits: number): Semaphore {
    return this.#core.semaphore(key, permits);
  }

  ping(options?: PingOptions): Promise<void> {
    return this.#core.ping(options);
  }

  /** Returns what the locker holds and does at this moment, for a log line, a health page or a test. Works after `close()`, too. */
  stats(): LockerStats {
    return this.#core.stats();
  }

  close(options?: CloseOptions): Promise<void> {
    return this.#core.close(options, () => this.#transactions.close());
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** @internal */
  [inspect.custom](_depth: unknown, options: object): string {
    return `MemoryLocker ${inspect({ ...this.#shown, ...this.stats() }, options)}`;
  }
}

function noClient(got: unknown): never {
  const wants = "absent: a lock in memory has no session";
  throw new InvalidConfigError({ field: "client", got, wants });
}
