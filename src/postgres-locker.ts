import { inspect } from "node:util";
import { assertTtl } from "./contract/acquire-options.ts";
import type { TransactionClient, TransactionOptions } from "./contract/clients.ts";
import { milliseconds } from "./contract/duration.ts";
import type { ElectOptions } from "./contract/election.ts";
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
import { PostgresTransactions } from "./holding/postgres-transactions.ts";
import { lookAtLock } from "./inspection/lock-state.ts";
import { LockerCore } from "./locker-core.ts";
import type { PostgresLockerOptions } from "./locker-options.ts";
import { PrefixedTransactionLocker } from "./namespaced-locker.ts";
import { checkPostgresLockerOptions, connWaitMilliseconds } from "./option-rules.ts";
import type { Pool } from "./postgres/driver.ts";
import { ownPool } from "./postgres/own-pool.ts";
import { boundedWait } from "./postgres/session.ts";
import { bindMethods } from "./runtime/bound-methods.ts";
import { Telemetry } from "./runtime/telemetry.ts";
import { ClientLocks } from "./sessions/client-locks.ts";
import { FencingTokens } from "./sessions/fencing-tokens.ts";
import { PostgresStore } from "./sessions/postgres-store.ts";
import { assertTtlWithin, RecoveryGrace } from "./sessions/recovery-grace.ts";
import { assertEnforceableTtl } from "./sessions/server-ttl.ts";

/**
 * A locker whose locks are PostgreSQL session advisory locks. A lock lasts at most as long as its session, and its holder may rely on it
 * for at most its TTL after the last refresh.
 *
 * @example
 * const locker = new PostgresLocker({ pool, namespace: 7 });
 * await using lock = await locker.acquire("invoice:42", { ttl: "30s" });
 */
export class PostgresLocker implements TransactionLocker {
  readonly #core: LockerCore;
  readonly #transactions: LocksInTransactions;
  readonly #onClients: ClientLocks;
  readonly #shown: { readonly namespace: number; readonly sessions: string; readonly ttlEnforcement: string };

  /** Creates a locker. Opens no connection. @throws {InvalidConfigError} names the field, what it got and what it wants */
  constructor(options: PostgresLockerOptions) {
    const checked = checkPostgresLockerOptions(options);
    const { namespace = 0, pooler = "refuse", ttlEnforcement = "client", sessions = "shared" } = checked;
    const { maxLocksPerSession = 1_000, maxWaitingSessions = 4, tellKeys = true } = checked;
    const connWaitTimeout = connWaitMilliseconds(checked.connWaitTimeout);
    const grace = milliseconds(checked.recoveryGrace);
    const recovery =
      grace === undefined ? undefined : new RecoveryGrace({ grace, trustPooler: pooler === "session" });
    const withinGrace = (assert: (got: unknown) => number) =>
      grace === undefined ? assert : assertTtlWithin(grace, assert);
    const assertEnforcedTtl = withinGrace(assertEnforceableTtl);
    const own = ownPool(checked, connWaitTimeout);
    const pool = (checked.pool ?? checked.database?.write ?? own) as Pool;
    const telemetry = new Telemetry(checked);
    this.#core = new LockerCore({
      namespace,
      lockId: checked.lockId,
      telemetry,
      breaker: checked.circuitBreaker,
      assertTtl: ttlEnforcement === "server" ? assertEnforcedTtl : withinGrace(assertTtl),
      assertEnforcedTtl,
      defaults: checked.defaults,
      defaultTtl: Math.min(defaultTtl, grace ?? defaultTtl),
      store: new PostgresStore({
        pool,
        ownsPool: own !== undefined,
        readPool: checked.database?.read as Pool | undefined,
        namespace,
        connWaitTimeout,
        pooler,
        sessions,
        maxLocksPerSession,
        tellKeys,
        maxWaitingSessions,
        ttlEnforcement,
        recovery,
        events: telemetry.events,
        onPlaceFree: () => this.#core.offerPlace(),
      }),
      storeOn: (client) => this.#onClients.storeOn(client),
      look: (lock, signal) => lookAtLock(pool, lock, signal),
    });
    const trustPooler = pooler === "session";
    const tokens = new FencingTokens({ pool, namespace, connectWithin: boundedWait(connWaitTimeout) });
    const enforced = ttlEnforcement === "server";
    this.#onClients = new ClientLocks({ trustPooler, enforced, recovery, tokens });
    const stores = new PostgresTransactions({ pool, connWaitTimeout, recovery });
    this.#transactions = new LocksInTransactions(this.#core, { stores, ttlEnforcement });
    this.#shown = { namespace, sessions, ttlEnforcement };
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
   * Runs `fn` in a transaction, under a lock that lasts until the transaction ends. What `fn` writes through `client` is committed if
   * and only if the lock was held throughout. If `fn` throws, the transaction is rolled back.
   *
   * The locker begins a transaction of its own, in `read committed`. With the option `client`, it uses the caller's transaction, which
   * stays open and keeps the lock until the caller ends it. It uses no other feature of the session, so it works behind a pooler in
   * transaction mode.
   *
   * `fn` must not end the transaction, nor roll back to a savepoint older than the lock. If it does, the call rejects, and nothing more
   * of the locker's own transaction is committed than what `fn` committed itself.
   *
   * @throws what `acquire` throws; then `fn` has not run
   * @throws {DatabaseError} the commit failed (if it got no answer, it may have taken effect), `fn` ended the transaction itself, a
   *   statement of `fn` failed, or this transaction and another waited for each other's locks (40P01)
   * @throws {LockExpiredError} the `ttl` passed without an answer from the server; nothing is committed
   * @throws {LockLostError} the server ended the transaction because the `ttl` had passed, before this process knew
   * @throws what `fn` throws
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
    return this.#core.close(options, async () => {
      await Promise.all([this.#transactions.close(), this.#onClients.close()]);
    });
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** @internal */
  [inspect.custom](_depth: unknown, options: object): string {
    const stats = this.stats();
    const sessions = `${stats.sessions} ${this.#shown.sessions}`;
    return `PostgresLocker ${inspect({ ...this.#shown, ...stats, sessions }, options)}`;
  }
}
