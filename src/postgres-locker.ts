import { inspect } from "node:util";
import { assertPositiveTtl } from "./contract/acquire-options.ts";
import { milliseconds } from "./contract/duration.ts";
import type { ElectOptions } from "./contract/election.ts";
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
import { LocksInTransactions } from "./holding/locks-in-transactions.ts";
import { defaultTtl, LockerCore } from "./locker-core.ts";
import {
  checkPostgresLockerOptions,
  connWaitMilliseconds,
  type PostgresLockerOptions,
} from "./locker-options.ts";
import type { Pool } from "./postgres/driver.ts";
import { ownPool } from "./postgres/own-pool.ts";
import { Telemetry } from "./runtime/telemetry.ts";
import { PostgresStore } from "./sessions/postgres-store.ts";
import { assertTtlWithin, RecoveryGrace } from "./sessions/recovery-grace.ts";
import { assertEnforceableTtl } from "./sessions/server-ttl.ts";

/**
 * Locks that are PostgreSQL session advisory locks: a lock is held as long as its session lives, and its holder may rely on it for its
 * TTL at most.
 *
 * @example
 * const locker = new PostgresLocker({ pool, namespace: 7 });
 * await using lock = await locker.acquire("invoice:42", { ttl: "30s" });
 */
export class PostgresLocker implements TransactionLocker {
  readonly #core: LockerCore;
  readonly #transactions: LocksInTransactions;
  readonly #shown: { readonly namespace: number; readonly sessions: string; readonly ttlEnforcement: string };

  /** Opens no connection. @throws {InvalidConfigError} names the field, what it got and what it wants */
  constructor(options: PostgresLockerOptions) {
    const checked = checkPostgresLockerOptions(options);
    const { namespace = 0, pooler = "refuse", ttlEnforcement = "client", sessions = "shared" } = checked;
    const { maxLocksPerSession = 1_000, maxWaitingSessions = 4, tellKeys = true } = checked;
    const connWaitTimeout = connWaitMilliseconds(checked.connWaitTimeout);
    const grace = milliseconds(checked.recoveryGrace);
    const recovery =
      grace === undefined ? undefined : new RecoveryGrace({ grace, trustPooler: pooler === "session" });
    const assertTtl = ttlEnforcement === "server" ? assertEnforceableTtl : assertPositiveTtl;
    const own = ownPool(checked, connWaitTimeout);
    const pool = (checked.pool ?? checked.database?.write ?? own) as Pool;
    this.#core = new LockerCore({
      namespace,
      telemetry: new Telemetry(checked),
      breaker: checked.circuitBreaker,
      assertTtl: grace === undefined ? assertTtl : assertTtlWithin(grace, assertTtl),
      defaultTtl: Math.min(defaultTtl, grace ?? defaultTtl),
      store: new PostgresStore({
        pool,
        ownsPool: own !== undefined,
        readPool: checked.database?.read,
        namespace,
        connWaitTimeout,
        pooler,
        sessions,
        maxLocksPerSession,
        tellKeys,
        maxWaitingSessions,
        ttlEnforcement,
        recovery,
        onPlaceFree: () => this.#core.offerPlace(),
      }),
    });
    this.#transactions = new LocksInTransactions(this.#core, {
      pool,
      connWaitTimeout,
      ttlEnforcement,
      recovery,
    });
    this.#shown = { namespace, sessions, ttlEnforcement };
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
   * Runs `fn` under a lock that lasts until the end of a transaction: what `fn` writes through `client` is committed if and
   * only if the lock was held all the while. If `fn` fails, all of it is rolled back.
   *
   * The transaction is one of the locker's own, in `read committed`; or, with the option `client`, the caller's, which then
   * stays open, and keeps the lock until the caller ends it. Uses nothing else of the session, so that a pooler in
   * transaction mode serves as well.
   *
   * `fn` neither ends the transaction nor goes back to a savepoint that is older than the lock: the call then rejects, and of the
   * locker's own transaction nothing is committed but what `fn` has itself.
   *
   * @throws what `acquire` throws; then `fn` has not run
   * @throws {DatabaseError} the commit failed; without an answer, it is not known whether it took effect. Or `fn` had ended the
   *   transaction itself, or a statement of it had failed. Or (40P01) this transaction and another waited for each other's locks
   * @throws {LockExpiredError} the `ttl` passed without an answer of the server; nothing is committed
   * @throws {LockLostError} the server ended the transaction for that, before this process knew
   * @throws what `fn` throws
   */
  withTransaction<T, C extends TransactionClient = TransactionClient>(
    key: string,
    fn: (client: C) => T | Promise<T>,
    options: TransactionOptions<C> = {},
  ): Promise<T> {
    return this.#transactions.run(key, fn, options);
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
    return this.#core.close(options, () => this.#transactions.close());
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
